"""Differences between nested values, as lines for people."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

ABSENT = object()
_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")  # a sha256


def changes(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every key whose value differs: dotted path, old value, new value (or ``ABSENT``)."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            below = f"{path}.{name}" if path else str(name)
            yield from changes(old.get(name, ABSENT), new.get(name, ABSENT), below)
    elif old is ABSENT or new is ABSENT or json.dumps(old) != json.dumps(new):
        yield path, old, new


def show(value: Any) -> str:
    """A value as people write it; digests are cut."""
    if value is ABSENT:
        return "(absent)"
    if isinstance(value, str):
        return _DIGEST.sub(lambda found: found[0][:12], value) or "(none)"
    return json.dumps(value, ensure_ascii=False)


def arrow(path: str, old: Any, new: Any) -> str:
    """One line, such as ``kl.coefficient 0.05 → 0.1``."""
    return f"{path} {show(old)} → {show(new)}"
