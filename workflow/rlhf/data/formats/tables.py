"""Rows of CSV and TSV files."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rlhf.data.formats.faults import MEND, Faults
from rlhf.data.formats.lines import raw_lines
from rlhf.data.formats.tabbed import tabbed_rows
from rlhf.data.names import kind_of
from rlhf.errors import DataError

DELIMITERS = ",;\t|"
NAMES = {"\t": "a tab", ",": "a comma", ";": "a semicolon"}
LONGEST = 1 << 27  # characters of a text in quotes
UNNAMED = "Unnamed: 0"  # as pandas calls the index that it wrote without a name


def table_rows(path: Path, faults: Faults, delimiter: str | None) -> Iterator[dict[str, Any]]:
    """The rows of a file whose first line names the columns.

    Args:
        path: a file.
        faults: where faulty rows go.
        delimiter: what stands between columns; None: as the first line says.

    Raises:
        DataError: the first line does not name the columns, or a quotation mark stays open.
    """
    csv.field_size_limit(LONGEST)
    lines, skipped = raw_lines(path), 0
    first = next(lines, "")
    while first and not first.strip("\r\n"):
        first, skipped = next(lines, ""), skipped + 1
    if first.lower().startswith("sep=") and len(first.rstrip("\r\n")) == 5:
        delimiter, first, skipped = delimiter or first[4], next(lines, ""), skipped + 1
    usual = "\t" if kind_of(path) == ".tsv" else ","
    delimiter = delimiter or _delimiter(first, usual, path)
    lines = _from(first, lines)
    if delimiter == "\t":
        rows = tabbed_rows(lines, faults, skipped)
    else:
        rows = _quoted(lines, delimiter, path, faults, skipped)
    header: list[str] = []
    width = 0
    for row in rows:
        if not header:
            # Spreadsheets write columns and rows that were emptied.
            header, width = _header(path, _stripped(row), faults.line), len(row)
        elif len(row) > 1 and not _stripped(row):
            faults.noticed["empty_row"] += 1
        elif len(row) == width and len(_stripped(row)) <= len(header):
            yield dict(zip(header, row, strict=False))
        elif row:
            faults.report_row(
                "csv_columns",
                f"The row has {len(row)} columns."
                if len(row) != width
                else "The row holds something in a column without a name.",
                expected=f"{len(header)} columns, as the first line: {', '.join(header)}",
                hint=f"put a text that holds {NAMES.get(delimiter, delimiter)} in quotes, with no "
                "space before them, or "
                f"name what stands between columns with `options.delimiter`, or {MEND}",
            )


def _from(first: str, lines: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from lines


def _delimiter(first: str, usual: str, path: Path) -> str:
    """What parts the first line: the usual, unless that makes one column of what are several."""

    def columns(delimiter: str) -> int:
        try:
            return len(next(csv.reader([first], delimiter=delimiter), []))
        except csv.Error:
            return 0

    if columns(usual) != 1:
        return usual
    counts = {one: columns(one) for one in DELIMITERS}
    most = max(counts.values())
    found = [one for one, count in counts.items() if count == most]
    if most > 1 and len(found) > 1:
        raise DataError(
            "Nobody can tell what stands between the columns.",
            where=f"{path}:1",
            expected=f"one of {' '.join(map(repr, found))} only",
            hint=f"name it, such as `options.delimiter: {found[0]!r}`",
        )
    return found[0] if most > 1 else usual


def _quoted(
    lines: Iterator[str], delimiter: str, path: Path, faults: Faults, skipped: int
) -> Iterator[list[str]]:
    """Rows of CSV: texts may be in quotes, and go over several lines in them."""
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        faults.line = rows.line_num + skipped + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise _not_csv(error, path, faults.line, delimiter) from None
        if row is None:
            return
        yield row


def _not_csv(error: csv.Error, path: Path, line: int, delimiter: str) -> DataError:
    if "end of data" in str(error) or "field larger" in str(error):
        opened = _open_quote(path, line, delimiter)
        return DataError(
            "The file is not CSV: a text in quotes does not end.",
            where=f"{path}:{opened}",
            expected='a closing quote, and each quote inside of quotes twice: ""',
            hint="mend the line, where the quote opens; or was the file cut off?",
        )
    if "new-line" in str(error):
        return DataError(
            "Some lines end with CR, others with LF.",
            where=f"{path}:{line}",
            expected="one end of line in the whole file, or texts with CR in quotes",
            hint="save or export it again",
        )
    return DataError(
        f"The file is not CSV: {error}.",
        where=f"{path}:{line}",
        expected='columns with commas between them, texts with commas or lines in "quotes"',
        hint='write a quote inside of quotes twice: ""; does a quote of this row stay open?',
    )


def _open_quote(path: Path, start: int, delimiter: str) -> int:
    """Number of the line from ``start`` on at which a text in quotes begins and does not end."""
    opened, inside, before = start, False, delimiter
    for number, line in enumerate(islice(raw_lines(path), start - 1, None), start=start):
        for char in line:
            if char == '"' and inside:
                inside = False
            elif char == '"' and before == '"':  # the second of two: the text goes on
                inside = True
            elif char == '"' and before in (delimiter, "\r", "\n"):
                opened, inside = number, True
            before = char
    return opened


def _stripped(row: list[str]) -> list[str]:
    """A row without what is empty at its end."""
    end = len(row)
    while end and not row[end - 1].strip():
        end -= 1
    return row[:end]


def _header(path: Path, row: list[str], line: int) -> list[str]:
    header = [name.strip() for name in row]
    if not header:
        return []
    if not header[0] and len(header) > 1 and UNNAMED not in header:
        header[0] = UNNAMED
    if not all(header) or len(set(header)) < len(header):
        times = Counter(header)
        place = next(i for i, name in enumerate(header, start=1) if not name or times[name] > 1)
        raise DataError(
            f"The first line does not name the columns: {', '.join(map(repr, row))}.",
            where=f"{path}:{line}",
            expected="a different name for each column",
            hint=f"if these are names, give column {place} one of its own; if it is a row, put a "
            "line with the columns' names before it",
        )
    return header
