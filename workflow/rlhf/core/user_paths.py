"""Paths as people write them: ``~``, ``$NAME`` and ``${NAME}`` stand for something else."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from rlhf.errors import RlhfError

_VARIABLE = re.compile(r"\$(?:(\$)|([A-Za-z_]\w*)|\{([^{}]*)\}|(\{))", re.ASCII)


def expand(text: str) -> str:
    """Put in what ``~``, ``~name``, ``$NAME`` and ``${NAME}`` stand for; ``$$`` is a ``$``.

    Raises:
        ValueError: a variable is not set, there is no such user, or this can't be a path.
    """
    if not text.strip():
        raise ValueError("the path is empty")
    if "\0" in text:
        raise ValueError("a path can't hold the character NUL")
    home, slash, rest = text.partition("/")
    if home.startswith("~"):
        try:
            known = Path(home).expanduser()
        except RuntimeError:
            raise ValueError(f"{home} is nobody's home; write ./{home} for a folder") from None
        return f"{known}{slash}{_VARIABLE.sub(_value, rest)}"
    return _VARIABLE.sub(_value, text)


def path_argument(text: str) -> Path:
    """Read a path of the command line; one that is there as it is written is taken so.

    Raises:
        argparse.ArgumentTypeError: as ``expand`` raises.
    """
    try:
        return Path(text) if text and os.path.lexists(text) else Path(expand(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def require_folder(path: Path, default: Path) -> None:
    """Refuse a folder that is none; only the default one need not be there yet.

    Raises:
        RlhfError: there is no such folder, or it is something else.
    """
    if not path.is_dir() and (path != default or os.path.lexists(path)):
        raise RlhfError(
            "This is no folder." if os.path.lexists(path) else "There is no such folder.",
            where=path,
            hint=f"without this option, {default}/ is taken",
        )


def _value(found: re.Match[str]) -> str:
    dollar, bare, braced, _ = found.groups()
    if dollar:
        return "$"
    name = bare or braced
    if not name or not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise ValueError(f"{found[0]!r} names no variable; write $$ for a $ itself")
    value = os.environ.get(name)
    if not value:
        state = "not set" if value is None else "empty"
        raise ValueError(f"the variable {name} is {state}; set it, or write $$ for a $ itself")
    return value
