"""Rows of TSV files.

A text may be in quotes, and hold tabs and lines in them, as pandas writes it. But in many files
quotes are letters like others: those that do not end where a text ends.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from itertools import islice

from rlhf.data.formats.faults import Faults

LINES = 1000  # the most of one row
_IN_QUOTES = re.compile(r'"((?:[^"]+|"")*+)"(?=\t|\Z)')
_OPEN = re.compile(r'"(?:[^"]+|"")*+\Z')


def tabbed_rows(lines: Iterator[str], faults: Faults, skipped: int = 0) -> Iterator[list[str]]:
    """Yield the texts of each row; ``faults.line`` follows.

    Args:
        lines: of the file.
        faults: ``noticed`` counts rows with a quote that is taken as a letter.
        skipped: how many lines of the file stand before.
    """
    ahead: deque[str] = deque()
    width, number = 0, skipped
    while (line := ahead.popleft() if ahead else next(lines, None)) is not None:
        number += 1
        faults.line = number
        text = line.rstrip("\r\n")
        if '"' not in text:
            cells = text.split("\t") if text else []
        else:
            cells, is_open = _cells(text, width)
            if is_open:
                found = _over_lines(line, cells, width, ahead, lines)
                if found is None:
                    faults.noticed["quote_as_letter"] += 1
                else:
                    cells, taken = found
                    number += taken
                    # In one column nobody can tell a text of lines from rows with odd quotes.
                    if width == 1:
                        faults.noticed["quotes_join_lines"] += 1
        width = width or len(cells)
        yield cells


def _cells(text: str, width: int) -> tuple[list[str], bool]:
    """The texts of a line, and whether one is in quotes that do not end on it."""
    cells: list[str] = []
    at, is_open = 0, False
    while True:
        if quoted := _IN_QUOTES.match(text, at):
            cells.append(quoted[1].replace('""', '"'))
            at = quoted.end()
        else:
            end = text.find("\t", at)
            end = len(text) if end < 0 else end
            # Lines that no quotes hold together are no text.
            is_open = is_open or _OPEN.match(text, at) is not None or "\n" in text[at:end]
            cells.append(text[at:end])
            at = end
        if at == len(text):
            break
        at += 1
    plain = text.split("\t")
    if width and len(cells) != width == len(plain):
        cells = plain  # two quotes that only seem to belong together
    return cells, is_open


def _over_lines(
    first: str, cells: list[str], width: int, ahead: deque[str], lines: Iterator[str]
) -> tuple[list[str], int] | None:
    """The row that a line with an open quote makes with later ones, and how many; or None.

    Args:
        first: the line.
        cells: its texts, if the quote is a letter.
        width: how many columns there are; 0: not known yet.
        ahead: lines that were read already; those that the row takes go from here.
        lines: those after them.
    """
    if not ahead and (more := next(lines, None)) is not None:
        ahead.append(more)
    if width > 1 and len(cells) == width:
        after = ahead[0] if ahead else None
        if after is None or len(_cells(after.rstrip("\r\n"), width)[0]) == width:
            return None  # it is a whole row, and a whole one comes next
    ahead.extend(islice(lines, max(0, LINES - len(ahead))))
    found = _joined(first, ahead, width)
    for _ in range(found[1] if found else 0):
        ahead.popleft()
    return found


def _joined(first: str, ahead: deque[str], width: int) -> tuple[list[str], int] | None:
    """The row that a line makes with so many of those after it, or None."""
    text = first
    for taken, more in enumerate(ahead, start=1):
        text += more
        if '"' in more:
            cells, is_open = _cells(text.rstrip("\r\n"), 0)
            if not is_open and (not width or len(cells) == width):
                return cells, taken
    return None
