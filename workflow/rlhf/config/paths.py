"""Keys that hold a path of the user's."""

from __future__ import annotations

from pydantic import ValidationInfo

from rlhf.config.base import is_written_out
from rlhf.core.user_paths import expand


def expanded(path: str | None, info: ValidationInfo) -> str | None:
    """A path with what ``~`` and ``$NAME`` stand for; a validator of keys that hold one."""
    return path if path is None or is_written_out(info) else expand(path)
