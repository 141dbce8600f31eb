"""Reward modelling: rank k replies to one history."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from rlhf.models.forward import branched_hidden_states, can_branch
from rlhf.models.reward import score, score_head
from rlhf.runtime import distributed
from rlhf.training.losses import ranking_loss
from rlhf.training.sft import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
        accuracy = sum(_pair_accuracy(row) for row in by_row)
        measures = {"accuracy": accuracy, "kendall_tau": 2 * accuracy - len(by_row)}
        return ranking_loss(by_row, self._l2), measures

    def validate(self, by_row: list[torch.Tensor]) -> dict[str, float]:
        """Means over held-out rows of the loss and the measures; empty without rows."""
        if not by_row:
            return {}
        loss, measures = self.judge(by_row)
        sums = {"loss": float(loss)} | measures
        return {f"validation_{name}": value / len(by_row) for name, value in sums.items()}


def _pair_accuracy(scores: torch.Tensor) -> float:
    """Share of the pairs that the scores (best reply first) order rightly; ties count half.

    Kendall's τ of a ranking without ties is twice this, minus 1.
    """
    return float((_differences(scores).sign() + 1).mean() / 2)


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
    """Mean and standard deviation of the raw scores on SFT demonstrations (arXiv 2403.17031)."""
    sequences = [torch.tensor(_to_last_label(row)) for row in demonstrations]
    scores = score(model, sequences, max_tokens).double()
    return float(scores.mean()), float(scores.std())


def _to_last_label(row: dict[str, Any]) -> list[int]:
    """A demonstration up to its final EOS: templates may write a line break after it."""
    last = max(i for i, label in enumerate(row["labels"]) if label != IGNORED)
    return row["input_ids"][: last + 1]
