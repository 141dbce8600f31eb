"""Rows of JSON files: objects one a line, one after another, in a list, or under a key."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from rlhf.data.formats.faults import MEND, Faults, is_read
from rlhf.data.formats.json_text import NotJson, Text, decode
from rlhf.data.formats.lines import BOM, read_lines, read_text
from rlhf.data.formats.objects import lists_of_messages
from rlhf.data.formats.unpacking import BROKEN, open_unpacked
from rlhf.errors import DataError

BLOCK = 1 << 12  # bytes
_NUMBERS = re.compile(r"\d+")


def json_rows(path: Path, faults: Faults) -> Iterator[dict[str, Any]]:
    """The objects of a file, which are in a list, one a line, or over several lines each."""
    begin = _begin(path)
    if begin == "[":
        return _values(path, faults, listed=True)
    if begin == "{" and _is_spread(path):
        return _values(path, faults, listed=False)
    return _lines(path, faults)


def _begin(path: Path) -> str:
    """How a file begins; of one that can't be read, its reader says why."""
    try:
        with open_unpacked(path) as stream:
            while block := stream.read(BLOCK):
                if begin := block.removeprefix(BOM.encode()).lstrip():
                    return chr(begin[0])
    except BROKEN:
        pass
    return ""


def _is_spread(path: Path) -> bool:
    """Whether objects do not stand on a line each: the first ends on another, or two share one."""
    number, line = next(read_lines(path))
    try:
        decode(line)
    except NotJson:
        text = Text(path, listed=False)
        try:
            text.decode()
        except (DataError, NotJson):
            return False
        return text.line > number or (text.peek() == "{" and text.line == number)
    return False


def _lines(path: Path, faults: Faults) -> Iterator[dict[str, Any]]:
    lines = read_lines(path)
    begin = list(islice(lines, 2))
    # Of several objects, none holds the others.
    first = len(begin) == 1
    for faults.line, line in chain(begin, lines):
        try:
            record = decode(line)
        except NotJson as error:
            faults.report_row(
                error.reason,
                f"The line is not JSON: {error}." if error.reason == "json" else f"{error}.",
                column=error.column,
                expected=error.expected or "one JSON object on one line",
                hint=f"{error.hint}, or {MEND}" if error.hint else MEND,
            )
            continue
        if first and isinstance(record, dict):
            _check_first(record, path, faults, record if faults.reads is None else faults.reads)
        first = False
        yield from _objects(record, faults, "line")


def _objects(record: Any, faults: Faults, place: str) -> Iterator[dict[str, Any]]:
    if isinstance(record, dict):
        yield record
    else:
        faults.report_row(
            "not_an_object",
            f"The {place} holds a {type(record).__name__}.",
            expected="one JSON object",
            hint=f"write each row as an object that names its parts, or {MEND}",
        )


def _check_first(
    record: dict[str, Any], path: Path, faults: Faults, reads: Collection[str]
) -> None:
    """Raise if the only object is no row but holds all of them.

    A path to its parts (`data.0.question`) would read one row, and lose the others.
    """
    tables = [one for one in record.values() if isinstance(one, dict) and one]
    if len(tables) == len(record) > 1 and _is_by_number(tables):
        raise DataError(
            "The object holds a table column by column, not a row.",
            where=f"{path}:{faults.line}",
            expected="one JSON object for each row",
            hint='write it with pandas\' `to_json(orient="records", lines=True)`',
        )
    if any(is_read(one, reads) for one in record):
        return
    lists = _lists(record)
    turns = [key for one in lists_of_messages(record) for turn in lists[one] for key in turn]
    # Messages that nobody reads as rows are the turns of one.
    if lists and (not turns or any(is_read(key, reads) for key in turns)):
        longest = max(lists, key=lambda key: len(lists[key]))
        others = "; the other lists are left" if len(lists) > 1 else ""
        raise DataError(
            f"The object has none of the columns that are read, but a list: {', '.join(lists)}.",
            where=f"{path}:{faults.line}",
            expected=f"rows with one of: {', '.join(sorted(reads)) or 'the columns that are read'}",
            hint=f"name the list of the rows with `options.field`: {longest}{others}",
        )


def _lists(record: dict[str, Any], above: str = "") -> dict[str, list[Any]]:
    """Path → list of objects, in an object and in those inside of it."""
    found: dict[str, list[Any]] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            found |= _lists(value, f"{above}{key}.")
        elif isinstance(value, list) and all(isinstance(one, dict) for one in value):
            found[f"{above}{key}"] = value
    return found


def _is_by_number(tables: list[dict[str, Any]]) -> bool:
    keys = list(tables[0])
    return all(map(_NUMBERS.fullmatch, keys)) and all(list(one) == keys for one in tables)


def _values(path: Path, faults: Faults, *, listed: bool) -> Iterator[dict[str, Any]]:
    """The objects of one JSON list, or of one text, decoded one at a time."""
    text = Text(path, listed)
    if listed:
        text.skip("[")
    end, faults.nth, last = "]" if listed else "", 0, 0
    while text.peek() != end:
        faults.line = text.line
        faults.nth = faults.nth + 1 if faults.line == last else 1
        first, last = last == 0, faults.line
        try:
            record = text.decode()
        except NotJson as error:
            faults.report_row(
                error.reason, f"{error}.", expected=error.expected, hint=error.hint or MEND
            )
        else:
            if not listed and first and not text.peek() and isinstance(record, dict):
                _check_first(record, path, faults, faults.reads or ())
            yield from _objects(record, faults, "list" if listed else "text")
        if not listed:
            continue
        if text.peek() == ",":
            text.skip(",")
        elif text.peek() != "]":
            raise text.fault("Expecting ',' delimiter")
    line = text.line
    text.skip("]")
    if listed and text.peek():
        raise DataError(
            "More follows after the end of the JSON list.",
            where=f"{path}:{line}",
            expected="one list of objects, or one object a line",
            hint="write each list to a file of its own; lines that are lists are no rows",
        )


def rows_of_field(path: Path, faults: Faults, field: str) -> Iterator[dict[str, Any]]:
    """The objects of the list under a key, such as ``data`` or ``data.rows``, of one object."""
    text = read_text(path)
    if not text.strip():
        return
    try:
        whole = found = decode(text)
    except NotJson as error:
        raise DataError(
            f"The file is not one JSON object: {error}.",
            where=f"{path}:{error.line}:{error.column}" if error.column else path,
            expected=error.expected or f"an object with a list under `{field}`",
            hint="leave out `options.field` to read JSON lines"
            if error.reason == "json"
            else "mend or export the file again",
        ) from None
    for part in field.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    if not isinstance(found, list):
        there = ", ".join(sorted(whole)[:8]) if isinstance(whole, dict) else type(whole).__name__
        raise DataError(
            f"The file has no list under `{field}`; it holds: {there}.",
            where=path,
            expected=f"an object with a list under `{field}`",
            hint="correct `options.field`",
        )
    faults.unit = ", item "
    for faults.line, record in enumerate(found, start=1):
        yield from _objects(record, faults, "item")
