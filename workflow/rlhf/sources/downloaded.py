"""Files that were downloaded: where they are, and what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.core.digest import digest_file


@dataclass(frozen=True, slots=True)
class Downloaded:
    """Files of one source on this machine.

    Attributes:
        folder: the folder that they are in.
        files: name in the folder → ``sha256`` in hex and ``size`` in bytes, in the source's order.
        commit: the commit that they are from, if the source has commits.
    """

    folder: Path
    files: Mapping[str, Mapping[str, Any]]
    commit: str | None = None


def describe_file(path: Path) -> dict[str, Any]:
    """What a lock and a manifest say of a file: ``sha256`` and ``size``."""
    return {"sha256": digest_file(path), "size": path.stat().st_size}
