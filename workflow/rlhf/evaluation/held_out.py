"""A reward model's scores of held-out replies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from rlhf.algorithms import pairs
from rlhf.algorithms.reward import RewardObjective
from rlhf.evaluation import agreement
from rlhf.evaluation.agreement import ScoredRow
from rlhf.evaluation.statistics import calibration_curve
from rlhf.training.engine.protocol import Forward
from rlhf.training.loop import map_rows

Rows = Iterable[dict[str, Any]]


def score_differences(by_row: Iterable[torch.Tensor]) -> list[float]:
    """Score of the better reply − that of the worse one, for every pair of every row."""
    return [one for scores in by_row for one in pairs.differences(scores).tolist()]


def score_held_out(
    scorer: Forward, objective: RewardObjective, rows: Rows, max_tokens: int
) -> list[torch.Tensor]:
    """What the objective looks at in each row; the ranks share the work, all know all.

    Args:
        scorer: a ``ReplyScorer``, or an engine around one.
        objective: knows the shapes of rows.
        rows: rows of the preference view.
        max_tokens: padded tokens in one forward pass.
    """
    return map_rows(
        lambda chosen: objective.scores(scorer, chosen), objective.shape, rows, max_tokens
    )


class HeldOut:
    """The held-out rows of a run, and their scores when last validated.

    Args:
        objective: the loss.
        rows: rows of the preference view.
        max_tokens: padded tokens in one forward pass.

    Attributes:
        scored: of each row; empty before the first validation.
    """

    def __init__(self, objective: RewardObjective, rows: Rows, max_tokens: int) -> None:
        self._objective, self._rows, self._max_tokens = objective, rows, max_tokens
        self.scored: list[ScoredRow] = []

    def validate(self, scorer: Forward) -> dict[str, float]:
        """The loss, and how the scores agree with people's order; empty without rows.

        Where the rows are of several datasets, the means over each are there by ``NAME/DATASET``.
        """
        values = score_held_out(scorer, self._objective, self._rows, self._max_tokens)
        self.scored = [
            ScoredRow(
                row.get("dataset", ""),
                self._objective.last(row, own).tolist(),
                [len(reply) for reply in row["reply_ids"]],
            )
            for row, own in zip(self._rows, values, strict=True)
        ]
        found = agreement.figures(self.scored)
        measures = self._objective.validate(self._rows, values)
        datasets = list(dict.fromkeys(row.dataset for row in self.scored))
        for dataset in datasets if len(datasets) > 1 else ():
            together = zip(self._rows, values, self.scored, strict=True)
            own = [(row, value) for row, value, scored in together if scored.dataset == dataset]
            means = self._objective.validate([row for row, _ in own], [value for _, value in own])
            measures |= {f"{name}/{dataset}": value for name, value in means.items()}
        return measures | {f"validation_{name}": value for name, value in found.items()}

    def evaluation(self) -> dict[str, Any]:
        """Content of the reward model's ``evaluation.json``."""
        differences = score_differences(torch.tensor(row.scores) for row in self.scored)
        return {
            "calibration": calibration_curve(differences) if differences else [],
            "agreement": agreement.tables(self.scored),
        }
