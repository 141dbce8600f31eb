"""Reward modelling: rank k replies to one history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from rlhf.algorithms import pairs
from rlhf.training.engine.protocol import Forward
from rlhf.training.sums import Measures


def score_rows(scorer: Forward, rows: list[dict[str, Any]]) -> list[torch.Tensor]:
    """Raw scores [k] of each row's replies, best first.

    Args:
        scorer: a ``ReplyScorer``, or an engine around one.
        rows: rows of the preference view.
    """
    histories = [torch.tensor(row["history_ids"], dtype=torch.long) for row in rows]
    replies = [[torch.tensor(reply) for reply in row["reply_ids"]] for row in rows]
    (scores,) = scorer(histories, replies)
    return list(scores.split([len(own) for own in replies]))


class RewardObjective:
    """The ranking loss over all pairs of a row; each reply is scored once.

    Args:
        l2: weight of the term that keeps scores near 0.
        branches: whether the replies of a row share one pass over their history, as the reward
            model says.
    """

    def __init__(self, l2: float, branches: bool) -> None:
        self._l2, self._branches = l2, branches

    def shape(self, row: dict[str, Any]) -> tuple[int, int]:
        """See ``pairs.shape``."""
        return pairs.shape(row, self._branches)

    def weight(self, row: dict[str, Any]) -> float:
        """Every conversation counts the same, however many replies it has."""
        return 1.0

    def __call__(
        self, scorer: Forward, rows: list[dict[str, Any]]
    ) -> tuple[torch.Tensor, Measures]:
        """Sum over rows of the ranking loss; accuracy and Kendall's τ over pairs."""
        return self.from_scores(score_rows(scorer, rows))

    def from_scores(self, by_row: list[torch.Tensor]) -> tuple[torch.Tensor, Measures]:
        """Sums of loss and measures from the scores [k] of each row's replies, best first."""
        measures = {
            "accuracy": sum(pairs.accuracy(row) for row in by_row),
            "kendall_tau": sum(pairs.kendall_tau(row) for row in by_row),
        }
        return ranking_loss(by_row, self._l2), measures

    def validate(
        self, by_row: list[torch.Tensor], sizes: Mapping[str, int] | None = None
    ) -> dict[str, float]:
        """Means over held-out rows of the loss and the measures; empty without rows.

        Args:
            by_row: scores [k] of each row's replies, best first.
            sizes: dataset → its rows, in their order: where there are several, the means over
                each are there too, by ``NAME/DATASET``.
        """
        if not by_row:
            return {}
        loss, measures = self.from_scores(by_row)
        sums = {"loss": loss, **measures}
        means = {f"validation_{name}": float(value) / len(by_row) for name, value in sums.items()}
        several = {name: size for name, size in (sizes or {}).items() if size}
        start = 0
        for dataset, size in several.items() if len(several) > 1 else ():
            own = self.validate(by_row[start : start + size])
            means |= {f"{name}/{dataset}": value for name, value in own.items()}
            start += size
        return means


def ranking_loss(scores: Sequence[torch.Tensor], l2: float) -> torch.Tensor:
    """Sum over rows of the mean over all C(k,2) pairs of −log σ(s⁺ − s⁻) + l2·½(s⁺² + s⁻²).

    Args:
        scores: per row [k], best reply first; k may differ.
        l2: weight of the term that keeps scores near 0 (Open-Assistant's reward loss).
    """
    losses = []
    for row in scores:
        positive, negative = pairs.split(row)
        loss = -F.logsigmoid(positive - negative).mean()
        losses.append(loss + l2 * 0.5 * (positive**2 + negative**2).mean())
    return torch.stack(losses).sum()
