"""The list of rows that a run leaves out: one stage writes it, training reads it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlhf.core.digest import canonical_json
from rlhf.core.files import write_atomic

DUPLICATES = "duplicates.jsonl"


def write_left_out(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows, each with its ``dataset`` and ``id`` and why it is left out."""
    write_atomic(path, "".join(f"{canonical_json(dict(row))}\n" for row in rows))


def read_left_out(path: str | Path) -> dict[str, set[str]]:
    """Dataset name → ids of the rows that are left out."""
    found: dict[str, set[str]] = {}
    text = Path(path).read_text(encoding="utf-8")
    for line in filter(None, text.split("\n")):  # an id may hold other line separators
        row = json.loads(line)
        found.setdefault(row["dataset"], set()).add(row["id"])
    return found
