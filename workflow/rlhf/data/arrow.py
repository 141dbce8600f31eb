"""A folder that ``datasets.load_from_disk`` opens, written as samples come.

``Dataset.save_to_disk`` would copy everything through a cache and stamp a random fingerprint on
it; here equal samples give equal bytes, and the fingerprint is a digest of the content.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.provenance.digest import digest_file
from rlhf.runtime.files import write_json

if TYPE_CHECKING:
    from datasets import Features

DATA_FILE = "data-00000-of-00001.arrow"
BATCH = 1000  # rows of a record batch, the unit that `datasets` looks rows up by


def write_dataset(
    folder: str | Path, features: Features, samples: Iterable[Mapping[str, Any]]
) -> None:
    """Write samples to a new folder in the layout of ``Dataset.save_to_disk``.

    Args:
        folder: is made; files in it are replaced.
        features: the columns.
        samples: column → value; consumed ``BATCH`` at a time.
    """
    import pyarrow as pa
    from datasets import DatasetInfo

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path, schema = folder / DATA_FILE, features.arrow_schema
    remaining = iter(samples)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        while batch := list(itertools.islice(remaining, BATCH)):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
    DatasetInfo(features=features).write_to_directory(str(folder))
    state: dict[str, Any] = {
        "_data_files": [{"filename": DATA_FILE}],
        # `datasets` keys its caches by the fingerprint, so it has to change with the content.
        "_fingerprint": digest_file(path)[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    write_json(folder / "state.json", state)
