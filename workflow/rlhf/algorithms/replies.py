"""Log probabilities of replies, and what is learned from rows that rank them.

What the methods on given replies share: the policy's log probabilities, those of the reference
that it started from, and the mean of a method's loss over rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, TypeAlias

import torch

from rlhf.algorithms import pairs
from rlhf.models.roots import from_starts
from rlhf.training.engine.protocol import Forward
from rlhf.training.loop import map_rows
from rlhf.training.sums import Measures

Rows: TypeAlias = list[dict[str, Any]]
# From a row and log π [k] of its replies to the mean loss of its pairs, and measures.
RowLoss: TypeAlias = Callable[
    [dict[str, Any], torch.Tensor], tuple[torch.Tensor, Mapping[str, torch.Tensor]]
]


class RankedObjective:
    """The mean over rows of a method's loss, of which each row has the mean over its pairs.

    Args:
        loss: the method's loss of one row.
        shares: whether replies to one history share a pass over it, as the model says.
    """

    def __init__(self, loss: RowLoss, shares: bool) -> None:
        self._loss, self._shares = loss, shares

    def shape(self, row: dict[str, Any]) -> tuple[int, int]:
        """See ``pairs.shape``."""
        return pairs.shape(row, self._shares)

    def weight(self, row: dict[str, Any]) -> float:
        """Every conversation counts the same, however many replies it has."""
        return 1.0

    def __call__(self, scorer: Forward, rows: Rows) -> tuple[torch.Tensor, Measures]:
        """Sum over rows of the mean loss of their pairs; sums of their mean measures.

        Args:
            scorer: a ``TokenScorer``, or an engine around one.
            rows: of the preference view.
        """
        losses: list[torch.Tensor] = []
        sums: dict[str, torch.Tensor | float] = defaultdict(float)
        for row, logprobs in zip(rows, reply_logprobs(scorer, rows), strict=True):
            loss, measures = self._loss(row, logprobs)
            losses.append(loss)
            for name, value in measures.items():
                sums[name] += value
        return torch.stack(losses).sum(), sums


def reply_logprobs(scorer: Forward, rows: Rows, **options: bool) -> list[torch.Tensor]:
    """log π [k] of each row's replies given their history, in nats, float32.

    Args:
        scorer: a ``TokenScorer``, or an engine around one.
        rows: of the preference view.
        options: of the scorer.
    """
    replies = [(row["history_ids"], reply) for row in rows for reply in row["reply_ids"]]
    sequences = [torch.tensor(history + reply) for history, reply in replies]
    starts = [len(history) for history, _ in replies]
    prompts = [start - 1 for start in starts]  # the last token's state is before the first reply's
    logprobs, _ = scorer(sequences, from_starts(sequences, starts), prompts=prompts, **options)
    by_reply = logprobs.split([len(reply) for _, reply in replies])
    totals = torch.stack([each.sum() for each in by_reply])
    return list(totals.split([len(row["reply_ids"]) for row in rows]))


def per_token(row: dict[str, Any], logprobs: torch.Tensor) -> torch.Tensor:
    """Mean log π [k] of the tokens of each reply, its EOS among them, in nats.

    Args:
        row: of the preference view.
        logprobs: log π [k] of its replies.
    """
    return logprobs / logprobs.new_tensor([len(reply) for reply in row["reply_ids"]])


def better_mean(values: torch.Tensor) -> torch.Tensor:
    """Mean over all pairs of the better reply's value, of values [k] of replies, best first."""
    better, _ = pairs.split(values)
    return better.mean()


def order_measures(scores: torch.Tensor, means: torch.Tensor) -> dict[str, torch.Tensor]:
    """How scores order the replies of a row, and how probable the replies of its pairs are.

    Args:
        scores: what a method compares replies by [k], best reply first.
        means: mean log π [k] of their tokens.
    """
    better, worse = pairs.split(means.detach())
    return {
        "accuracy": pairs.accuracy(scores),
        "kendall_tau": pairs.kendall_tau(scores),
        "chosen_logprob": better.mean().double(),
        "rejected_logprob": worse.mean().double(),
    }


class ReferenceLogprobs:
    """log π_ref of every reply: what the policy gives before its first update. See ``Prepared``.

    An adapter is switched off, for a prefix changes the policy before any update. So no second
    model is held, and a reply is computed once, however many epochs there are.

    Args:
        scorer: the policy, or an engine around it.
        sets: the rows that are trained and validated on.
        shares: whether replies to one history share a pass over it, as the model says.
        micro_batch_tokens: padded tokens in one forward pass.
    """

    def __init__(
        self,
        scorer: Forward,
        sets: Sequence[Iterable[dict[str, Any]]],
        shares: bool,
        micro_batch_tokens: int,
    ) -> None:
        self._scorer, self._sets = scorer, sets
        self._shares, self._max_tokens = shares, micro_batch_tokens
        self._logprobs: dict[tuple[Any, Any], torch.Tensor] = {}

    def __call__(self, row: dict[str, Any]) -> torch.Tensor:
        """log π_ref [k] of the row's replies, on the CPU."""
        return self._logprobs[row["dataset"], row["id"]]

    def compute(self) -> None:
        """See ``Prepared``."""
        values = map_rows(
            lambda rows: reply_logprobs(self._scorer, rows, adapted=False),
            lambda row: pairs.shape(row, self._shares),
            self._rows(),
            self._max_tokens,
        )
        self._keep(values)

    def state(self) -> dict[str, Any]:
        """See ``Prepared``."""
        return {"logprobs": torch.cat([torch.empty(0), *self._logprobs.values()])}

    def restore(self, state: dict[str, Any]) -> None:
        """See ``Prepared``."""
        sizes = [len(row["reply_ids"]) for row in self._rows()]
        self._keep(state["logprobs"].split(sizes))

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Every row once."""
        seen = set()
        for row in chain.from_iterable(self._sets):
            if (name := (row["dataset"], row["id"])) not in seen:
                seen.add(name)
                yield row

    def _keep(self, values: Sequence[torch.Tensor]) -> None:
        names = ((row["dataset"], row["id"]) for row in self._rows())
        self._logprobs = dict(zip(names, values, strict=True))
