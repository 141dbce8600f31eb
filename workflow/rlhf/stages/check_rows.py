"""Before a run trains: do it and all that build on it have rows to train and to measure on?"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from rlhf.config.rows import RowsNeeded, RowsSlice
from rlhf.core.files import write_json
from rlhf.data.enough import (
    demonstrations,
    require_prompts,
    require_scores,
    require_training,
)
from rlhf.data.left_out import DUPLICATES, read_left_out
from rlhf.data.mixture import Mixture
from rlhf.stages.stage import Stage, main

logger = logging.getLogger(__name__)


def run(stage: Stage) -> None:
    """Write ``rows.json``, what each run has, and the manifest."""
    runs = stage.read(RowsSlice).runs
    counts = {name: _check(stage, name, needs) for name, needs in runs.items()}
    logger.info("%s: %s", stage.name, counts)
    write_json(stage.outputs["rows"], counts)
    stage.finish(counts=counts)


def _check(stage: Stage, name: str, needs: RowsNeeded) -> dict[str, Any]:
    """What a run has.

    Raises:
        DataError: it has nothing to train on, too little to measure on, or no scores of replies.
    """
    counts: dict[str, Any] = {}
    if needs.train is not None:
        manifests = _manifests(stage, needs.train, needs.data)
        lists = [
            one.parent for one in stage.inputs.get("duplicates", []) if one.parent.name == name
        ]
        left_out = read_left_out(lists[0] / DUPLICATES) if lists else None
        rows = _mixture(manifests, "train", left_out)
        require_training(name, manifests, rows)
        if needs.scores:
            require_scores(name, needs.scores, rows)
        counts["train"] = len(rows)
    if needs.demonstrations is not None:
        rows = _mixture(_manifests(stage, needs.demonstrations, needs.data), "validation")
        found = demonstrations(name, rows, needs.calibration_samples)
        counts["demonstrations"] = len(found.rows)
        if found.warning:
            logger.warning("%s: %s", name, found.warning)
    if needs.prompts is not None:
        rows = _mixture(_manifests(stage, needs.prompts, needs.data), "validation")
        require_prompts(name, rows)
        counts["prompts"] = len(rows)
    return counts


def _manifests(stage: Stage, folder: str, datasets: list[str]) -> list[Path]:
    """Of the tokenized sets in a folder ``view/model``, those of a run's datasets."""
    return [
        path
        for path in stage.inputs["tokenized"]
        if path.parent.name in datasets and "/".join(path.parts[-4:-2]) == folder
    ]


def _mixture(manifests: list[Path], split: str, left_out: Any = None) -> Mixture:
    folders = {path.parent.name: path.parent / "data" for path in manifests}
    return Mixture(folders, {}, split, left_out)


if __name__ == "__main__":
    main(run)
