"""docs/metrics.md names the figures in the files of a whole run, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from support.page_tables import names, tables
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

FIGURES = tables("metrics.md", "figure")
RUNS = {"SFT": "sft/chat", "Reward model": "reward/helpful", "PPO": "ppo/final"}


def keys(records: Iterable[dict[str, Any]]) -> set[str]:
    return {name for record in records for name in record}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("section", RUNS)
def test_trainings(finished, section):
    path = finished.folder / "results" / RUNS[section] / "metrics.jsonl"
    with path.open(encoding="utf-8") as lines:
        logged = keys(map(json.loads, lines))
    assert logged == set(names(FIGURES[section]))
    kind, _, name = RUNS[section].partition("/")
    events = finished.folder / "logs" / f"train_{kind}" / f"{name}.tensorboard"
    shown = EventAccumulator(str(events)).Reload().Tags()["scalars"]
    online = section == "PPO"
    phases = "Phases of on-policy methods" if online else "Phases of learning from a dataset"
    speed = {*names(FIGURES["TensorBoard only"]), *names(FIGURES[phases])}
    assert set(shown) == logged - {"step"} | speed
    with events.with_suffix(".perf.jsonl").open(encoding="utf-8") as lines:
        assert keys(map(json.loads, lines)) == speed | {"step"}


def test_evaluations(finished):
    found = read(finished.folder / "results/evaluation/final/evaluation.json")
    assert found.keys() == {"models", "comparisons"}
    figures = [*found["models"].values(), *found["comparisons"].values()]
    inner = [value for part in figures for value in part.values() if isinstance(value, dict)]
    assert keys([*figures, *inner]) == set(names(FIGURES["Evaluation"]))
    curve = read(finished.folder / "results/reward/helpful/evaluation.json")
    assert curve.keys() == {"calibration", "agreement"}
    agreement = curve["agreement"]
    parts = {*agreement, *keys(row for rows in agreement.values() for row in rows)}
    assert parts == set(names(FIGURES["Reward model: agreement"]))
    assert keys(curve["calibration"]) == set(names(FIGURES["Reward model: calibration curve"]))


def test_manifests(finished):
    logged = {
        (name, manifest["stage"])
        for path in (finished.folder / "results").rglob("manifest.json")
        for manifest in [read(path)]
        for name in manifest["metrics"]
    }
    rows = FIGURES["Manifests"]
    documented = {
        (name, stage.strip(" `"))
        for name, row in zip(names(rows), rows, strict=True)
        for stage in row[1].split(",")
    }
    assert logged == documented
