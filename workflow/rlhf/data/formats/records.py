"""Rows of a dataset's files as they stand there: JSON lines or lists, CSV, Parquet, Arrow, text."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rlhf.data.files import kind_of
from rlhf.data.formats.faults import Faults
from rlhf.data.formats.lines import (
    BOM,
    BROKEN,
    empty,
    open_unpacked,
    raw_lines,
    read_chunks,
    read_lines,
    read_text,
)
from rlhf.errors import DataError

BLOCK = 1 << 12  # bytes
BATCH = 1024  # rows of a binary file that are turned into objects at once


def read_records(path: Path, faults: Faults, field: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the objects of one file; ``faults.line`` follows.

    Args:
        path: a file.
        faults: where faulty rows go.
        field: key of the list of rows, if a JSON file holds one object.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    kind = kind_of(path)
    faults.path, faults.line, faults.unit = path, 0, ":"
    reader = _READERS.get(kind)
    if reader is not None:
        yield from reader(path, faults)
    elif field is not None:
        yield from _rows_of_field(path, faults, field)
    elif _is_list(path):
        yield from _json_list(path, faults)
    else:
        yield from _json_lines(path, faults)


def _json_lines(path: Path, faults: Faults) -> Iterator[dict[str, Any]]:
    for number, text in read_lines(path):
        faults.line = number
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            spread = number == 1 and kind_of(path) == ".json"
            faults.report(
                "json",
                f"The line is not JSON: {error.msg}.",
                column=error.colno,
                expected="one JSON object on one line",
                **({"hint": SPREAD} if spread else {}),
            )
        except RecursionError:
            faults.report(
                "nested", "The object is nested too deeply.", expected="fewer than 300 turns"
            )
        else:
            yield from _objects(record, faults, "line")


SPREAD = "if the file holds one object over several lines, name its list with `options.field`"


def _objects(record: Any, faults: Faults, place: str) -> Iterator[dict[str, Any]]:
    if isinstance(record, dict):
        yield record
    else:
        faults.report(
            "not_an_object",
            f"The {place} holds a {type(record).__name__}.",
            expected="one JSON object",
        )


def _is_list(path: Path) -> bool:
    """Whether a file begins with a JSON list; one that can't be read is left to its reader."""
    try:
        with open_unpacked(path) as stream:
            while block := stream.read(BLOCK):
                if begin := block.removeprefix(BOM.encode()).lstrip():
                    return begin.startswith(b"[")
    except BROKEN:
        pass
    return False


def _json_list(path: Path, faults: Faults) -> Iterator[dict[str, Any]]:
    """The objects of one JSON list, decoded one at a time."""
    text = _Text(path)
    text.skip("[")
    while text.peek() != "]":
        faults.line = text.line
        yield from _objects(text.decode(), faults, "list")
        if text.peek() == ",":
            text.skip(",")
        elif text.peek() != "]":
            raise text.fault("Expecting ',' delimiter")
    line = text.line
    text.skip("]")
    if text.peek():
        raise DataError(
            "More follows after the end of the JSON list.",
            where=f"{path}:{line}",
            expected="one list of objects, or one object a line",
            hint="lines that are lists are no rows",
        )


class _Text:
    """A long JSON text of which only a piece is held.

    Attributes:
        line: number of the line at which the rest begins, from 1.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._chunks = path, read_chunks(path)
        self._held, self._at = "", 0
        self.line, self._column = 1, 1
        self._scan = json.JSONDecoder().raw_decode

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            while self._at < len(self._held):
                char = self._held[self._at]
                if char not in " \t\r\n":
                    return char
                self._advance(self._at + 1)
            if not self._more():
                return ""

    def skip(self, char: str) -> None:
        """Go past the next character, which is this one."""
        if self.peek() == char:
            self._advance(self._at + 1)
        self.peek()

    def decode(self) -> Any:
        """The next value, after more of the file was read if it does not end in what is held."""
        wanted = 0
        while True:
            try:
                value, end = self._scan(self._held, self._at)
                if end < len(self._held) or not self._more():
                    self._advance(end)
                    return value
            except json.JSONDecodeError as error:
                # Twice as much each time, or a long object would be scanned again and again.
                wanted = max(2 * wanted, len(self._held) - self._at)
                if not self._more(wanted):
                    self._advance(max(error.pos, self._at))
                    raise self.fault(error.msg) from None
            except RecursionError:
                raise self.fault("it is nested too deeply") from None

    def fault(self, what: str) -> DataError:
        """The error for what stands where the rest begins."""
        return DataError(
            f"The file is not a JSON list: {what}.",
            where=f"{self._path}:{self.line}:{self._column}",
            expected="[{…}, {…}, …], whole",
            hint="was the download cut off? For one object a line, leave out the brackets",
        )

    def _advance(self, end: int) -> None:
        passed = self._held[self._at : end]
        newline = passed.rfind("\n")
        self.line += passed.count("\n")
        self._column = len(passed) - newline if newline >= 0 else self._column + len(passed)
        self._at = end

    def _more(self, wanted: int = 1) -> bool:
        """Read on for at least so many characters; False at the end of the file."""
        added: list[str] = []
        while wanted > 0 and (chunk := next(self._chunks, "")):
            added.append(chunk)
            wanted -= len(chunk)
        self._held, self._at = "".join([self._held[self._at :], *added]), 0
        return bool(added)


def _rows_of_field(path: Path, faults: Faults, field: str) -> Iterator[dict[str, Any]]:
    text = read_text(path)
    if not text.strip():
        raise empty(path)
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(
            f"The file is not one JSON object: {getattr(error, 'msg', 'nested too deeply')}.",
            where=f"{path}:{getattr(error, 'lineno', 1)}:{getattr(error, 'colno', 1)}",
            expected=f"an object with a list under `{field}`",
            hint="leave out `options.field` to read JSON lines",
        ) from None
    for part in field.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    if not isinstance(found, list):
        keys = json.loads(text)
        there = ", ".join(sorted(keys)[:8]) if isinstance(keys, dict) else type(keys).__name__
        raise DataError(
            f"The file has no list under `{field}`; it holds: {there}.",
            where=path,
            expected=f"an object with a list under `{field}`",
            hint="correct `options.field`",
        )
    faults.unit = ", item "
    for faults.line, record in enumerate(found, start=1):
        yield from _objects(record, faults, "item")


def _csv(path: Path, faults: Faults) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(sys.maxsize)
    delimiter = "\t" if kind_of(path) == ".tsv" else ","
    rows = csv.reader(raw_lines(path), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        faults.line = rows.line_num + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise DataError(
                f"The file is not CSV: {error}.",
                where=f"{path}:{faults.line}",
                expected='columns with commas between them, texts with commas or lines in "quotes"',
                hint='write a quote inside of quotes twice: ""',
            ) from None
        if row is None:
            break
        if not header:
            header = _header(path, row) if any(row) else []
        elif len(row) == len(header):
            yield dict(zip(header, row, strict=True))
        elif row:
            faults.report(
                "csv_columns",
                f"The row has {len(row)} columns.",
                expected=f"{len(header)} columns, as the first line: {', '.join(header)}",
            )
    if not header:
        raise empty(path)


def _header(path: Path, row: list[str]) -> list[str]:
    header = [name.strip() for name in row]
    if not all(header) or len(set(header)) < len(header):
        raise DataError(
            f"The first line does not name the columns: {', '.join(map(repr, row))}.",
            where=f"{path}:1",
            expected="a different name for each column",
            hint="write a first line with the columns' names",
        )
    return header


def _parquet(path: Path, faults: Faults) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield from _batches(file.iter_batches(batch_size=BATCH), faults)
    except (pa.ArrowInvalid, OSError) as error:
        raise _not(path, "Parquet", error) from None


def _arrow(path: Path, faults: Faults) -> Iterator[dict[str, Any]]:
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            if source.read(6) == b"ARROW1":
                file = pa.ipc.open_file(source)
                yield from _batches(
                    (file.get_batch(i) for i in range(file.num_record_batches)), faults
                )
            else:
                source.seek(0)
                yield from _batches(pa.ipc.open_stream(source), faults)
    except (pa.ArrowInvalid, OSError) as error:
        raise _not(path, "Arrow", error) from None


def _batches(batches: Any, faults: Faults) -> Iterator[dict[str, Any]]:
    faults.unit, number = ", row ", 0
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH):
            for record in batch.slice(start, BATCH).to_pylist():
                number += 1
                faults.line = number
                yield record


def _not(path: Path, kind: str, error: Exception) -> DataError:
    what = str(error).partition("\n")[0].rstrip(".")
    return DataError(
        f"The file is not {kind}, or it is damaged: {what}.",
        where=path,
        expected=f"a whole {kind} file",
        hint="copy or download it again; a text of a few lines is a pointer of Git LFS",
    )


def _plain(path: Path, faults: Faults) -> Iterator[dict[str, Any]]:
    text = read_text(path)
    if not text.strip():
        raise empty(path)
    faults.line = 1
    yield {"text": text}


_READERS: dict[str, Callable[[Path, Faults], Iterator[dict[str, Any]]]] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".txt": _plain,
}
