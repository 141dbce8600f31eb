"""The report's tables for other programs, each in CSV and in Parquet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.core.files import atomic_directory
from rlhf.reporting.comparison import COLUMNS, flat
from rlhf.reporting.runs import Run

CURVES = ("section", "run", "seed", "step", "metric", "value")


def write_tables(folder: Path, rows: Sequence[Mapping[str, Any]], runs: Sequence[Run]) -> None:
    """Write ``comparison`` and ``curves`` into a folder.

    Args:
        folder: the folder.
        rows: those of ``compared``.
        runs: the runs whose metrics are written, each seed by itself.
    """
    import pandas as pd

    curves = pd.DataFrame(_curves(runs), columns=list(CURVES)).astype({"seed": "Int64"})
    comparison = pd.DataFrame(flat(rows), columns=list(COLUMNS))
    with atomic_directory(folder) as made:
        for name, table in {"comparison": comparison, "curves": curves}.items():
            table.to_csv(made / f"{name}.csv", index=False, lineterminator="\n")
            table.to_parquet(made / f"{name}.parquet", index=False, compression="zstd")


def _curves(runs: Iterable[Run]) -> list[tuple[str, str, int | None, float, str, float]]:
    """One line for each value of each metric."""
    return [
        (run.role, run.name, seed, row["step"], metric, value)
        for run in runs
        for artifact, seed in zip(run.artifacts, run.seeds or (None,), strict=True)
        for row in artifact.metrics
        if "step" in row
        for metric, value in row.items()
        if metric != "step"
    ]
