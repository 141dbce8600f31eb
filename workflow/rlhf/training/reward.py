"""Reward modelling: rank k replies to one history."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from rlhf.errors import NumericsError
from rlhf.models.roots import ReplyScorer
from rlhf.models.scoring import score
from rlhf.training import distributed, finite
from rlhf.training.engine.protocol import Forward
from rlhf.training.losses import ranking_loss
from rlhf.training.rounds import plan_rounds
from rlhf.training.sft import IGNORED

# Scores that differ by less than this share of the largest are equal but for rounding.
RESOLUTION = {torch.bfloat16: 2.0**-8, torch.float32: 2.0**-20, torch.float64: 2.0**-20}


def score_rows(scorer: Forward, rows: list[dict[str, Any]]) -> list[torch.Tensor]:
    """Raw scores [k] of each row's replies, best first.

    Args:
        scorer: a ``ReplyScorer``, or an engine around one.
        rows: rows of the preference view.
    """
    histories = [torch.tensor(row["history_ids"], dtype=torch.long) for row in rows]
    replies = [[torch.tensor(reply) for reply in row["reply_ids"]] for row in rows]
    return list(scorer(histories, replies))


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
        """One row of the history and all replies, or as many as replies, each after its history."""
        history, replies = len(row["history_ids"]), [len(ids) for ids in row["reply_ids"]]
        if self._branches:
            return 1, history + sum(replies)
        return len(replies), history + max(replies)

    def weight(self, row: dict[str, Any]) -> float:
        """Every conversation counts the same, however many replies it has."""
        return 1.0

    def __call__(
        self, scorer: Forward, rows: list[dict[str, Any]]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Sum over rows of the ranking loss; accuracy and Kendall's τ over pairs."""
        return self.judge(score_rows(scorer, rows))

    def judge(self, by_row: list[torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
        """The same of scores [k] of each row's replies, best first."""
        measures = {
            "accuracy": sum(_pair_accuracy(row) for row in by_row),
            "kendall_tau": sum(_kendall_tau(row) for row in by_row),
        }
        return ranking_loss(by_row, self._l2), measures

    def validate(self, by_row: list[torch.Tensor]) -> dict[str, float]:
        """Means over held-out rows of the loss and the measures; empty without rows."""
        if not by_row:
            return {}
        loss, measures = self.judge(by_row)
        sums = {"loss": float(loss)} | measures
        return {f"validation_{name}": value / len(by_row) for name, value in sums.items()}


def _pair_accuracy(scores: torch.Tensor) -> float:
    """Share of the pairs that the scores (best reply first) order rightly; a tie is not right."""
    return float((_differences(scores) > 0).float().mean())


def _kendall_tau(scores: torch.Tensor) -> float:
    """Agreement of the scores with the order of the replies, best first (τ-b, Kendall 1945).

    People's order has no ties, so τ-b is (right − wrong) / √(pairs · pairs without a tie): without
    tied scores twice the accuracy, minus 1. Scores that are all equal rank nothing: 0.
    """
    signs = _differences(scores).sign()
    untied = int((signs != 0).sum())
    return float(signs.sum()) / math.sqrt(len(signs) * untied) if untied else 0.0


def _differences(scores: torch.Tensor) -> torch.Tensor:
    """Better − worse for all C(k,2) pairs of one row's scores [k], best reply first."""
    better, worse = torch.triu_indices(len(scores), len(scores), offset=1)
    return (scores[better] - scores[worse]).detach()


def score_differences(by_row: Iterable[torch.Tensor]) -> list[float]:
    """Score of the better reply − that of the worse one, for every pair of every row."""
    return [one for scores in by_row for one in _differences(scores).tolist()]


@torch.no_grad()
def score_held_out(
    scorer: Forward,
    objective: RewardObjective,
    rows: Iterable[dict[str, Any]],
    max_tokens: int,
) -> list[torch.Tensor]:
    """Raw scores [k] of each row's replies, best first; the ranks share the work, all know all.

    Args:
        scorer: a ``ReplyScorer``, or an engine around one.
        objective: knows the shapes of rows.
        rows: rows of the preference view.
        max_tokens: padded tokens in one forward pass.
    """
    every = list(rows)
    plan = plan_rounds(
        [objective.shape(row) for row in every], max_tokens, distributed.world_size()
    )
    found: list[tuple[int, list[float]]] = []
    for each in plan[distributed.rank()]:
        scores = score_rows(scorer, [every[i] for i in each.rows])
        if each.counts:
            found += zip(each.rows, (one.tolist() for one in scores), strict=True)
    known = dict(distributed.gather(found))
    return [torch.tensor(known[i]) for i in range(len(every))]


@torch.no_grad()
def calibrate(
    scorer: ReplyScorer, demonstrations: Iterable[dict[str, Any]], max_tokens: int
) -> tuple[float, float]:
    """Mean and standard deviation of the raw scores on SFT demonstrations (arXiv 2403.17031).

    Raises:
        NumericsError: a score is not finite, or the scores differ by no more than rounding does.
    """
    rows = list(demonstrations)
    sequences = [torch.tensor(_to_last_label(row)) for row in rows]
    scores = score(scorer, sequences, max_tokens).double()
    where = "calibration on held-out demonstrations"
    share = slice(distributed.rank(), None, distributed.world_size())  # every rank has all
    finite.check_rows(
        {"reward model's scores": scores[share]}, rows[share], where, finite.START_ADVICE
    )
    mean, std, largest = float(scores.mean()), float(scores.std()), float(scores.abs().max())
    if std <= RESOLUTION[scorer.product_dtype] * largest:
        raise NumericsError(
            f"The reward model gives {len(rows)} held-out demonstrations the same score: mean"
            f" {mean:g}, standard deviation {std:g}. Rewards are divided by the latter.",
            where=where,
            expected="scores that differ by more than rounding",
            hint="the reward model has learned nothing that tells demonstrations apart: look at its"
            " validation accuracy, train longer or with a lower `optimizer.learning_rate`, or set"
            " `precision: float32`",
        )
    return mean, std


def _to_last_label(row: dict[str, Any]) -> list[int]:
    """A demonstration up to its final EOS: templates may write a line break after it."""
    last = max(i for i, label in enumerate(row["labels"]) if label != IGNORED)
    return row["input_ids"][: last + 1]
