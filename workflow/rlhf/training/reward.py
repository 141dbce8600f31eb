"""Reward modelling: rank k replies to one history."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from rlhf.errors import NumericsError
from rlhf.models.forward import branched_hidden_states, can_branch
from rlhf.models.precision import product_type
from rlhf.models.reward import score, score_head
from rlhf.training import distributed, finite
from rlhf.training.losses import ranking_loss
from rlhf.training.sft import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Scores that differ by less than this share of the largest are equal but for rounding.
RESOLUTION = {torch.bfloat16: 2.0**-8, torch.float32: 2.0**-20, torch.float64: 2.0**-20}


def score_rows(
    model: PreTrainedModel, rows: list[dict[str, Any]], max_tokens: int
) -> list[torch.Tensor]:
    """Raw scores [k] of each row's replies, best first.

    Args:
        model: a reward model.
        rows: rows of the preference view.
        max_tokens: padded tokens in one forward pass, where histories can't be shared.
    """
    if not can_branch(model):
        sequences = [sequence for row in rows for sequence in sequences_of(row)]
        scores = score(model, sequences, max_tokens)
        return list(scores.split([len(row["reply_ids"]) for row in rows]))
    found = []
    for row in rows:
        replies = [torch.tensor(reply) for reply in row["reply_ids"]]
        hidden = branched_hidden_states(model, torch.tensor(row["history_ids"]), replies)
        last = torch.stack([one[-1] for one in hidden])
        found.append(score_head(model)(last).squeeze(-1).float())
    return found


def sequences_of(row: dict[str, Any]) -> list[torch.Tensor]:
    """History and reply joined, one sequence for each reply, best first."""
    return [torch.tensor(row["history_ids"] + reply) for reply in row["reply_ids"]]


class RewardObjective:
    """The ranking loss over all pairs of a row; each reply is scored once.

    The replies of a row share one pass over their history, where the architecture allows it.

    Args:
        l2: weight of the term that keeps scores near 0.
        micro_batch_tokens: padded tokens in one forward pass.
    """

    def __init__(self, l2: float, micro_batch_tokens: int) -> None:
        self._l2, self._tokens = l2, micro_batch_tokens

    def cost(self, row: dict[str, Any]) -> int:
        """Tokens of the row: its history once, and all replies."""
        return len(row["history_ids"]) + sum(map(len, row["reply_ids"]))

    def weight(self, row: dict[str, Any]) -> float:
        """Every conversation counts the same, however many replies it has."""
        return 1.0

    def __call__(
        self, model: PreTrainedModel, rows: list[dict[str, Any]]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Sum over rows of the ranking loss; accuracy and Kendall's τ over pairs."""
        return self.judge(score_rows(model, rows, self._tokens))

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
    model: PreTrainedModel, rows: Iterable[dict[str, Any]], max_tokens: int
) -> list[torch.Tensor]:
    """Raw scores [k] of each row's replies, best first; the ranks share the work, all know all.

    Args:
        model: a reward model.
        rows: rows of the preference view.
        max_tokens: padded tokens in one forward pass, where histories can't be shared.
    """
    mine = list(rows)[distributed.rank() :: distributed.world_size()]
    found = [row.tolist() for row in score_rows(model, mine, max_tokens)] if mine else []
    return [torch.tensor(scores) for scores in distributed.gather(found)]


@torch.no_grad()
def calibrate(
    model: PreTrainedModel, demonstrations: Iterable[dict[str, Any]], max_tokens: int
) -> tuple[float, float]:
    """Mean and standard deviation of the raw scores on SFT demonstrations (arXiv 2403.17031).

    Raises:
        NumericsError: a score is not finite, or the scores differ by no more than rounding does.
    """
    rows = list(demonstrations)
    sequences = [torch.tensor(_to_last_label(row)) for row in rows]
    scores = score(model, sequences, max_tokens).double()
    where = "calibration on held-out demonstrations"
    share = slice(distributed.rank(), None, distributed.world_size())  # every rank has all
    finite.check_rows(
        {"reward model's scores": scores[share]}, rows[share], where, finite.START_ADVICE
    )
    mean, std, largest = float(scores.mean()), float(scores.std()), float(scores.abs().max())
    if std <= RESOLUTION[product_type(model) or scores.dtype] * largest:
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
