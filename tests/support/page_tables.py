"""Reading the tables of the pages in docs/."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"


def tables(page: str, first: str) -> dict[str, list[list[str]]]:
    """Section (``##``) → rows of its tables whose first column is called ``first``, as texts."""
    found: dict[str, list[list[str]]] = {}
    section, inside = "", False
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line[3:]
        if not line.startswith("|"):
            inside = False
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == first:
            inside = True
        elif inside and not re.fullmatch(r"[-:| ]+", line):
            found.setdefault(section, []).append(cells)
    return found


def names(rows: list[list[str]]) -> list[str]:
    """What stands in backticks in the first column."""
    return [re.fullmatch(r"`([^`]+)`", row[0]).group(1) for row in rows]
