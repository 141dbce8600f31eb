"""Rows of Parquet and Arrow files: only the columns that a format reads are made into objects."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.data.formats.faults import Faults, is_read
from rlhf.data.formats.unpacking import LFS, packing_of
from rlhf.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"
BATCH = 1024  # rows that are turned into objects at once


def parquet_rows(path: Path, faults: Faults) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file; columns that are not read hold None, and are not decoded.

    Raises:
        DataError: the file is not Parquet or damaged, or a column that is read cannot be.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            wanted = _wanted(names, path, faults)
            for name in [one for one in names if one not in wanted]:
                if count := _filled(file, names.index(name)):
                    faults.count_unread(name, count)
            if wanted:
                batches = file.iter_batches(batch_size=BATCH, columns=wanted)
                yield from _objects(batches, names, wanted, path, faults)
            else:
                faults.unit = ", row "
                for faults.line in range(1, file.metadata.num_rows + 1):
                    yield dict.fromkeys(names)
    except (pa.ArrowException, OSError) as error:
        raise _not(path, "Parquet", error) from None


def arrow_rows(path: Path, faults: Faults) -> Iterator[dict[str, Any]]:
    """The rows of an Arrow file or stream; see ``parquet_rows``."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            is_file = source.read(6) == b"ARROW1"
            if is_file:
                file = pa.ipc.open_file(source)
                schema = file.schema
                batches: Iterable[pa.RecordBatch] = map(
                    file.get_batch, range(file.num_record_batches)
                )
            else:
                source.seek(0)
                stream = pa.ipc.open_stream(source)
                schema, batches = stream.schema, stream
            wanted = _wanted(schema.names, path, faults)
            counted = _counting(batches, wanted, faults)
            yield from _objects(counted, schema.names, wanted, path, faults)
            # A stream may end without a mark, but one that was cut off between batches does, too.
            source.seek(max(0, source.size() - len(STREAM_END)))
            if not is_file and source.read() != STREAM_END:
                faults.noticed["no_end_mark"] += 1
    except (pa.ArrowException, OSError) as error:
        raise _not(path, "Arrow", error) from None


def _wanted(names: list[str], path: Path, faults: Faults) -> list[str]:
    """The columns that the format may read; each name stands for one of them."""
    wanted = [one for one in names if faults.reads is None or is_read(one, faults.reads)]
    twice = [one for one, count in Counter(names).items() if count > 1 and one in wanted]
    if twice:
        raise DataError(
            f"Two columns have the name {twice[0]!r}.",
            where=path,
            expected="a different name for each column",
            hint="write the file again with one of them renamed or left out",
        )
    return wanted


def _filled(file: pq.ParquetFile, column: int) -> int:
    """In how many rows a column is not null, from the file's statistics where they say so."""
    schema = file.schema_arrow
    name = schema.names[column]
    paths = [file.schema.column(i).path for i in range(len(file.schema))]
    leaves = [i for i, path in enumerate(paths) if path == name or path.startswith(f"{name}.")]
    flat = len(leaves) == 1 and paths[leaves[0]] == name
    filled = 0
    for group in range(file.num_row_groups):
        about = file.metadata.row_group(group)
        known = about.column(leaves[0]).statistics if flat else None
        if known is not None and known.has_null_count:
            filled += about.num_rows - known.null_count
        elif leaves:
            # One of its parts says whether there is something, and is less to read than all.
            part = paths[leaves[0]]
            for batch in file.iter_batches(BATCH, [group], columns=[part]):
                filled += batch.num_rows - batch.column(0).null_count
    return filled


def _counting(
    batches: Iterable[pa.RecordBatch], wanted: list[str], faults: Faults
) -> Iterator[pa.RecordBatch]:
    """The same batches; what is in columns that are not read is counted."""
    for batch in batches:
        for i, name in enumerate(batch.schema.names):
            if name not in wanted and (count := batch.num_rows - batch.column(i).null_count):
                faults.count_unread(name, count)
        yield batch


def _objects(
    batches: Iterable[pa.RecordBatch],
    names: list[str],
    wanted: list[str],
    path: Path,
    faults: Faults,
) -> Iterator[dict[str, Any]]:
    faults.unit, number = ", row ", 0
    blank, some = dict.fromkeys(names), len(wanted) < len(names)
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH):
            part = batch.slice(start, BATCH)
            columns = [_values(part, name, number, path) for name in wanted]
            rows = zip(*columns, strict=True) if columns else [()] * part.num_rows
            for row in rows:
                number += 1
                faults.line = number
                record = dict(zip(wanted, row, strict=True))
                yield blank | record if some else record


def _values(batch: pa.RecordBatch, name: str, before: int, path: Path) -> list[Any]:
    """What a column holds in some rows.

    Args:
        batch: the rows.
        name: of the column.
        before: how many rows of the file stand before them.
        path: the file.
    """
    column = batch.column(batch.schema.names.index(name))
    try:
        return column.to_pylist()
    except Exception as error:  # whatever Python has no value for: dates, codes, units
        row = next((i for i in range(len(column)) if not _can(column[i])), 0)
        raise DataError(
            f"Column `{name}` holds a {column.type} that cannot be read: {error}.",
            where=f"{path}, row {before + row + 1}, column {name}",
            expected="texts, numbers, and lists or objects of them",
            hint="write the column again with another type, such as text",
        ) from None


def _can(value: Any) -> bool:
    try:
        value.as_py()
    except Exception:
        return False
    return True


def _not(path: Path, kind: str, error: Exception) -> DataError:
    what = str(error).partition("\n")[0].rstrip(".")
    hint = "copy or download it again"
    if path.is_file() and os.access(path, os.R_OK):
        with open(path, "rb") as stream:
            head = stream.read(64)
        if head.startswith(LFS):
            hint = "it is a pointer of Git LFS: `git lfs pull` in the clone fetches the file"
        elif packing := packing_of(head):
            hint = f"it is packed with {packing}: unpack it with `{packing} -d`"
    return DataError(
        f"The file is not {kind}, or it is damaged: {what}.",
        where=path,
        expected=f"a whole {kind} file",
        hint=hint,
    )
