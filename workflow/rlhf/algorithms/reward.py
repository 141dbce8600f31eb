"""Reward modelling: rank k replies to one history, or match the scores that they were given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import comb
from typing import Any

import torch
from torch.nn import functional as F

from rlhf.algorithms import pairs
from rlhf.config.reward import RewardConfig
from rlhf.training.engine.protocol import Forward
from rlhf.training.sums import Measures

Rows = list[dict[str, Any]]


def score_rows(scorer: Forward, rows: Rows, per_token: bool = False) -> list[torch.Tensor]:
    """Raw scores of each row's replies, best first: [k].

    Args:
        scorer: a ``ReplyScorer``, or an engine around one.
        rows: rows of the preference view.
        per_token: those of all tokens of a row's replies, one reply after the other.
    """
    histories = [torch.tensor(row["history_ids"], dtype=torch.long) for row in rows]
    replies = [[torch.tensor(reply) for reply in row["reply_ids"]] for row in rows]
    if per_token:
        (scores,) = scorer(histories, replies, per_token=True)
        return list(scores.split([sum(map(len, own)) for own in replies]))
    (scores,) = scorer(histories, replies)
    return list(scores.split([len(own) for own in replies]))


class RewardObjective:
    """The loss of the scores of a row's replies; each reply is scored once.

    Args:
        config: the run's configuration.
        branches: whether the replies of a row share one pass over their history, as the reward
            model says.
    """

    def __init__(self, config: RewardConfig, branches: bool) -> None:
        self._loss, self._l2, self._branches = config.loss, config.score_l2, branches

    def shape(self, row: dict[str, Any]) -> tuple[int, int]:
        """See ``pairs.shape``."""
        return pairs.shape(row, self._branches)

    def weight(self, row: dict[str, Any]) -> float:
        """What the mean is over: rows, or pairs (`classification`), or replies (`regression`)."""
        replies = len(row["reply_ids"])
        counts = {"classification": comb(replies, 2), "regression": replies}
        return float(counts.get(self._loss.kind, 1))

    def __call__(self, scorer: Forward, rows: Rows) -> tuple[torch.Tensor, Measures]:
        """Sum over rows of loss · weight; likewise accuracy and Kendall's τ over pairs."""
        losses: list[torch.Tensor] = []
        measures: dict[str, torch.Tensor | float] = {"accuracy": 0.0, "kendall_tau": 0.0}
        for row, values in zip(rows, self.scores(scorer, rows), strict=True):
            weight = self.weight(row)
            losses.append(weight * self.row_loss(row, values))
            for name, value in _measures(self.last(row, values)).items():
                measures[name] += weight * value
        return torch.stack(losses).sum(), measures

    def scores(self, scorer: Forward, rows: Rows) -> list[torch.Tensor]:
        """What the loss looks at: the scores of each row's replies, or of their tokens."""
        return score_rows(scorer, rows, self._loss.kind == "tokenwise")

    def last(self, row: dict[str, Any], values: torch.Tensor) -> torch.Tensor:
        """Scores [k] of a row's replies, best first, of what ``scores`` gave for it."""
        if self._loss.kind != "tokenwise":
            return values
        ends = torch.tensor([len(reply) for reply in row["reply_ids"]]).cumsum(0) - 1
        return values[ends.to(values.device)]

    def row_loss(self, row: dict[str, Any], values: torch.Tensor) -> torch.Tensor:
        """The mean loss over a row's pairs, or over its replies in `regression`.

        Args:
            row: of the preference view; with the replies' own ``scores`` where the loss needs them.
            values: what ``scores`` gave for it.
        """
        scores, loss = self.last(row, values), self._loss
        if loss.kind == "regression":
            return regression_loss(scores, _own_scores(row, scores), self._l2)
        better, worse = pairs.split(scores)
        margins = loss.margin * pairs.differences(_own_scores(row, scores)) if loss.margin else None
        if loss.kind == "tokenwise":
            replies = row["reply_ids"]
            cost = tokenwise_loss(values, replies, margins, loss.label_smoothing)
        else:
            cost = preference_loss(better - worse, margins, loss.label_smoothing)
        cost = cost.mean() + self._l2 * 0.5 * (better**2 + worse**2).mean()
        if loss.centring:
            cost = cost + loss.centring * ((better + worse) ** 2).mean()
        return cost

    def validate(
        self, rows: Iterable[dict[str, Any]], found: list[torch.Tensor]
    ) -> dict[str, float]:
        """Means over held-out rows of the loss and the measures; empty without rows.

        Args:
            rows: of the preference view.
            found: what ``scores`` gave for each.
        """
        sums = {"loss": 0.0, "accuracy": 0.0, "kendall_tau": 0.0}
        losses, weights = [], 0.0
        for row, values in zip(rows, found, strict=True):
            weight = self.weight(row)
            weights += weight
            losses.append(weight * self.row_loss(row, values))
            for name, value in _measures(self.last(row, values)).items():
                sums[name] += float(value)
        if not losses:
            return {}
        means = {name: value / len(losses) for name, value in sums.items()}
        means["loss"] = float(torch.stack(losses).sum()) / weights
        return {f"validation_{name}": value for name, value in means.items()}


def ranking_loss(scores: Sequence[torch.Tensor], l2: float) -> torch.Tensor:
    """Sum over rows of the mean over all C(k,2) pairs of −log σ(s⁺ − s⁻) + l2·½(s⁺² + s⁻²).

    Args:
        scores: per row [k], best reply first; k may differ.
        l2: weight of the term that keeps scores near 0 (Open-Assistant's reward loss).
    """
    losses = []
    for row in scores:
        positive, negative = pairs.split(row)
        loss = preference_loss(positive - negative).mean()
        losses.append(loss + l2 * 0.5 * (positive**2 + negative**2).mean())
    return torch.stack(losses).sum()


def preference_loss(
    differences: torch.Tensor, margins: torch.Tensor | None = None, smoothing: float = 0.0
) -> torch.Tensor:
    """−(1 − ε)·log σ(d − m) − ε·log σ(m − d), of differences d of any shape.

    With m: Touvron et al. 2023 (Llama 2, arXiv 2307.09288), equation 2.

    Args:
        differences: d, score of the better reply − that of the worse one.
        margins: m, in the same shape or one that widens to it.
        smoothing: ε.
    """
    ahead = differences if margins is None else differences - margins
    loss = -F.logsigmoid(ahead)
    return (1 - smoothing) * loss - smoothing * F.logsigmoid(-ahead) if smoothing else loss


def tokenwise_loss(
    values: torch.Tensor,
    replies: Sequence[Sequence[int]],
    margins: torch.Tensor | None = None,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Loss [P] of each pair of a row: the mean over tokens of ``preference_loss``.

    The tokens are those from where the two replies part to the end of the longer one; beyond its
    own end a reply's score is that of its last token (DeepSpeed-Chat's reward loss).

    Args:
        values: scores of all tokens of the replies, one reply after the other.
        replies: token ids [L_j] of k replies, best first.
        margins: of each pair [P].
        smoothing: see ``preference_loss``.
    """
    lengths = torch.tensor([len(reply) for reply in replies])
    longest, device = int(lengths.max()), values.device
    places = torch.arange(longest)
    index = (lengths.cumsum(0) - lengths)[:, None] + places.clamp(max=(lengths - 1)[:, None])
    scores = values[index.to(device)]  # [k, longest]
    ids = torch.full((len(replies), longest), -1)
    for own, reply in zip(ids, replies, strict=True):
        own[: len(reply)] = torch.tensor(reply)
    first, second = torch.triu_indices(len(replies), len(replies), offset=1)
    parted = (ids[first] != ids[second]).cumsum(1) > 0
    ended = places >= torch.maximum(lengths[first], lengths[second])[:, None]
    counted = (parted & ~ended).to(device)  # [P, longest]
    first, second = first.to(device), second.to(device)
    widened = None if margins is None else margins[:, None]
    losses = preference_loss(scores[first] - scores[second], widened, smoothing)
    return (losses * counted).sum(1) / counted.sum(1)


def regression_loss(scores: torch.Tensor, targets: torch.Tensor, l2: float) -> torch.Tensor:
    """Mean over replies of (s − t)² + l2·½s² (Wang et al. 2023, arXiv 2311.09528).

    Args:
        scores: s [k].
        targets: t [k], the replies' own scores.
        l2: weight of the term that keeps scores near 0.
    """
    return ((scores - targets) ** 2 + l2 * 0.5 * scores**2).mean()


def _own_scores(row: dict[str, Any], scores: torch.Tensor) -> torch.Tensor:
    """The replies' own scores [k], as the dataset has them."""
    return torch.tensor(row["scores"]).to(scores)


def _measures(scores: torch.Tensor) -> dict[str, torch.Tensor]:
    """How scores [k] of a row's replies, best first, agree with people's order."""
    return {"accuracy": pairs.accuracy(scores), "kendall_tau": pairs.kendall_tau(scores)}
