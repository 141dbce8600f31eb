"""A folder that ``datasets.load_from_disk`` opens, written as samples come.

``Dataset.save_to_disk`` would copy everything through a cache and stamp a random fingerprint on
it; here equal samples give equal bytes, and the fingerprint is a digest of the content.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.core.digest import digest_file
from rlhf.core.files import write_json

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Features

DATA_FILE = "data-00000-of-00001.arrow"
BATCH = 1000  # rows of a record batch, the unit that `datasets` looks rows up by


class DatasetWriter:
    """Writes a new folder in the layout of ``Dataset.save_to_disk``, ``BATCH`` rows at a time.

    Args:
        folder: is made; files in it are replaced.
        features: the columns.
    """

    def __init__(self, folder: str | Path, features: Features) -> None:
        import pyarrow as pa

        self._folder, self._features = Path(folder), features
        self._folder.mkdir(parents=True, exist_ok=True)
        self._pending = features.arrow_schema.empty_table()
        self._sink = pa.OSFile(str(self._folder / DATA_FILE), "wb")
        self._writer = pa.ipc.new_stream(self._sink, features.arrow_schema)

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._write(self._pending)
        self._writer.close()
        self._sink.close()
        if kind is None:
            self._describe()

    def add(self, rows: pa.RecordBatch) -> None:
        """Write rows; however they come in batches, the bytes are the same."""
        import pyarrow as pa

        self._pending = pa.concat_tables([self._pending, pa.Table.from_batches([rows])])
        whole = len(self._pending) // BATCH * BATCH
        self._write(self._pending.slice(0, whole))
        self._pending = self._pending.slice(whole)

    def _write(self, rows: pa.Table) -> None:
        import pyarrow as pa

        for start in range(0, len(rows), BATCH):
            columns = [_copy(column) for column in rows.slice(start, BATCH).columns]
            self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=rows.schema))

    def _describe(self) -> None:
        from datasets import DatasetInfo

        DatasetInfo(features=self._features).write_to_directory(str(self._folder))
        state: dict[str, Any] = {
            "_data_files": [{"filename": DATA_FILE}],
            # `datasets` keys its caches by the fingerprint: it has to change with the content.
            "_fingerprint": digest_file(self._folder / DATA_FILE)[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        write_json(self._folder / "state.json", state)


def _copy(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array, which a slice alone is not: it is written with what stands after."""
    import pyarrow as pa

    return pa.concat_arrays([*column.chunks, pa.array([], column.type)])


def record_batch(schema: pa.Schema, samples: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    """Samples as columns."""
    import pyarrow as pa

    columns = [_array([one[field.name] for one in samples], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Values as one array; lists by their lengths, which takes a third of Arrow's own time."""
    import numpy as np
    import pyarrow as pa

    if not pa.types.is_list(kind):
        return pa.array(values, kind)
    offsets = np.zeros(len(values) + 1, dtype=np.int32)
    np.cumsum([len(one) for one in values], out=offsets[1:])
    if kind.value_type == pa.int32():
        ids = array("i")
        for one in values:
            ids.extend(one)
        inside = pa.array(np.frombuffer(ids, np.int32))
    else:
        inside = _array(list(itertools.chain.from_iterable(values)), kind.value_type)
    return pa.ListArray.from_arrays(pa.array(offsets), inside, type=kind)
