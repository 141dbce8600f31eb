"""Digests of values, files and trees."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no white space, exact floats."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest_text(text: str) -> str:
    """sha256 of a text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest_value(value: Any) -> str:
    """sha256 of a value's canonical JSON, in hex."""
    return digest_text(canonical_json(value))


def digest_file(path: str | Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_tree(root: str | Path) -> dict[str, dict[str, Any]]:
    """Every file below ``root``: relative path → size in bytes and sha256."""
    root = Path(root)
    return {
        path.relative_to(root).as_posix(): {
            "size": path.stat().st_size,
            "sha256": digest_file(path),
        }
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@functools.cache
def digest_source(path: Path) -> str:
    """Digest of a local file, or of all files below a folder."""
    return digest_file(path) if path.is_file() else digest_value(describe_tree(path))
