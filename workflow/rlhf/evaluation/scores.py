"""All scores of an evaluation as a table: one row for each response, in Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from rlhf.core.files import write_atomic
from rlhf.evaluation.statistics import repetition
from rlhf.evaluation.summary import ModelSamples

if TYPE_CHECKING:
    import pandas as pd


def write_scores(
    path: Path, per_model: Mapping[str, ModelSamples], prompts: Sequence[Mapping[str, Any]]
) -> None:
    """Write the scores of every response.

    Columns are ``model``; ``prompt``, ``dataset`` and ``id`` of what it answers; ``reward`` and,
    if there is a gold reward model, ``gold``; ``kl``, ``length``, ``ended``, ``repetition``.

    Args:
        path: the file.
        per_model: name → samples, from the earliest model to the latest.
        prompts: by group, the row that the samples of the group answer.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {}
    for name, samples in per_model.items():
        groups = np.asarray(samples.groups).tolist()
        own: dict[str, ArrayLike] = {
            "model": [name] * len(groups),
            "prompt": groups,
            "dataset": [prompts[group]["dataset"] for group in groups],
            "id": [prompts[group]["id"] for group in groups],
            "reward": samples.rewards,
            **({} if samples.gold is None else {"gold": samples.gold}),
            "kl": samples.kl,
            "length": samples.lengths,
            "ended": samples.ended,
            "repetition": [repetition(ids) for ids in samples.token_ids],
        }
        for column, values in own.items():
            columns.setdefault(column, []).extend(np.asarray(values).tolist())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    write_atomic(path, sink.getvalue().to_pybytes())


def read_scores(path: Path) -> pd.DataFrame:
    """The table that ``write_scores`` wrote."""
    import pandas as pd

    return pd.read_parquet(path)
