"""Rows and tokenized sets on the disk, written in one go."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.data.arrow import BATCH, DatasetWriter, record_batch
from rlhf.data.rows import Row
from rlhf.data.rows_file import RowsWriter

if TYPE_CHECKING:
    from datasets import Features


def write_rows(
    folder: str | Path, rows: Iterable[tuple[Row, str]], kept: Collection[str] = ()
) -> None:
    """Write (row, split) pairs of all views to ``folder``; see ``RowsWriter``."""
    with RowsWriter(folder, kept) as writer:
        for row, split in rows:
            writer.add(row, split)


def write_dataset(
    folder: str | Path, features: Features, samples: Iterable[Mapping[str, Any]]
) -> None:
    """Write samples, column → value, to a new folder; see ``DatasetWriter``."""
    remaining = iter(samples)
    with DatasetWriter(folder, features) as writer:
        while batch := list(itertools.islice(remaining, BATCH)):
            writer.add(record_batch(features.arrow_schema, batch))
