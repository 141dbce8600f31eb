"""Rows of a dataset's files as they stand there, whatever kind of file it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf.data.formats.faults import Faults
from rlhf.data.formats.json_records import json_rows, rows_of_field
from rlhf.data.formats.lines import read_text
from rlhf.data.formats.tables import table_rows
from rlhf.data.names import kind_of


def read_records(
    path: Path, faults: Faults, field: str | None = None, delimiter: str | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the objects of one file; ``faults.line`` follows.

    Args:
        path: a file.
        faults: where faulty rows go.
        field: key of the list of rows, if a JSON file holds one object.
        delimiter: what stands between the columns of a CSV or TSV file; None: as the first
            line says.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    kind = kind_of(path)
    faults.path, faults.line, faults.nth, faults.unit = path, 0, 1, ":"
    if kind in (".csv", ".tsv"):
        yield from table_rows(path, faults, delimiter)
    elif kind in (".parquet", ".arrow"):
        from rlhf.data.formats.arrow_records import arrow_rows, parquet_rows

        yield from (parquet_rows if kind == ".parquet" else arrow_rows)(path, faults)
    elif kind == ".txt":
        yield from _plain(path, faults)
    elif field is not None:
        yield from rows_of_field(path, faults, field)
    else:
        yield from json_rows(path, faults)


def _plain(path: Path, faults: Faults) -> Iterator[dict[str, Any]]:
    text = read_text(path)
    if text.strip():
        faults.line = 1
        yield {"text": text}
