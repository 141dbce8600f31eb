"""Manifests as people may have left them: cut, edited, or no manifests at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlhf.errors import IntegrityError
from rlhf.provenance.manifest import read_manifest

_TEXTS = ("stage", "name", "code", "image", "tree")
_MAPPINGS = ("config", "parents", "files", "counts", "metrics", "facts")


def read_whole_manifest(path: str | Path) -> dict[str, Any]:
    """Read a manifest as ``read_manifest`` does, and look whether every part of it is there.

    Raises:
        IntegrityError: the file is absent, unreadable, damaged, or of another schema version.
    """
    try:
        manifest = read_manifest(path)
    except OSError as error:
        raise IntegrityError(
            f"The manifest can't be read: {error.strerror or error}.", where=path
        ) from None
    lacking = [key for key in _TEXTS if not isinstance(manifest.get(key), str)]
    lacking += [key for key in _MAPPINGS if not isinstance(manifest.get(key), dict)]
    files = manifest["files"].values() if "files" not in lacking else ()
    if not all(isinstance(one, dict) and {"size", "sha256"} <= one.keys() for one in files):
        lacking.append("sizes and digests of files")
    if lacking:
        raise IntegrityError(
            f"The manifest is damaged: it lacks {', '.join(lacking)}.",
            where=path,
            hint="delete this file and run snakemake again",
        )
    return manifest
