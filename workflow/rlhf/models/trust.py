"""Whose code may run: a model's own, if the configuration trusts the model by name; else nobody's.

``fetch_model`` keeps the code of a trusted model, and its manifest says so. What is trained from
it inherits that, so later stages read it off the artifact that they load.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlhf.core.files import read_json
from rlhf.provenance.manifest import MANIFEST

TRUSTED = "trust_remote_code"  # among a manifest's facts, if it is so


def reading(folder: str | Path) -> dict[str, Any]:
    """Arguments for every ``from_pretrained``: no network, and no code but a trusted model's."""
    return {"local_files_only": True, "trust_remote_code": is_trusted(folder)}


def is_trusted(folder: str | Path) -> bool:
    """Whether the manifest beside a model's folder says that its own code may run."""
    try:
        manifest = read_json(Path(folder).resolve().parent / MANIFEST)
    except FileNotFoundError:
        return False
    return manifest["facts"].get(TRUSTED) is True
