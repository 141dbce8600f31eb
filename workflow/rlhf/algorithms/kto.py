"""Kahneman-Tversky optimization: the policy learns from single replies that are good or bad.

Ethayarajh et al. 2024 (arXiv 2402.01306): as in DPO a policy has the implicit reward
r(x, y) = log π(y|x)/π_ref(y|x). People judge it by a reference point z_0, the KL divergence of the
policy from the reference, and feel losses and gains less and less the larger they are. Each
update:

1. z_0: the mean of r over the histories of the global batch, each with a reply to another one of
   them; not below 0, and without a gradient (``KlEstimate``).
2. r of every reply, with log π_ref from before the first update (``ReferenceLogprobs``).
3. The loss of a reply: λ_D·(1 − σ(β(r − z_0))) if it is desirable, λ_U·(1 − σ(β(z_0 − r))) if not
   (section 4.1, equation 8).
4. The mean over rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch

from rlhf.algorithms import pairs
from rlhf.algorithms.replies import Rows, reply_logprobs
from rlhf.config.kto import KtoConfig
from rlhf.data.mixture import Mixture
from rlhf.models.devices import moved
from rlhf.training.engine.protocol import Forward
from rlhf.training.loop import global_batches, map_rows
from rlhf.training.sums import Measures

Reference = Callable[[dict[str, Any]], torch.Tensor]


class KtoObjective:
    """The loss of replies that are good or bad.

    Args:
        config: the run's configuration.
        reference: log π_ref [1] of the reply of a row.
        shares: whether replies to one history share a pass over it, as the model says.
    """

    def __init__(self, config: KtoConfig, reference: Reference, shares: bool) -> None:
        self._config, self._reference, self._shares = config, reference, shares

    def shape(self, row: dict[str, Any]) -> tuple[int, int]:
        """See ``pairs.shape``."""
        return pairs.shape(row, self._shares)

    def weight(self, row: dict[str, Any]) -> float:
        """Every reply counts the same; λ_D and λ_U weigh its loss."""
        return 1.0

    def __call__(self, scorer: Forward, rows: Rows) -> tuple[torch.Tensor, Measures]:
        """Sums over rows of the loss and of measures.

        Args:
            scorer: a ``TokenScorer``, or an engine around one.
            rows: of the feedback view, from ``KlEstimate``.
        """
        config = self._config
        ratios = _log_ratios(scorer, rows, self._reference)  # [B], nats
        desirable = [row["desirable"] for row in rows]
        signs = ratios.new_tensor([1.0 if good else -1.0 for good in desirable])
        weights = ratios.new_tensor(
            [config.desirable_weight if good else config.undesirable_weight for good in desirable]
        )
        ahead = signs * (ratios - ratios.new_tensor([row["kl"] for row in rows]))
        loss = (weights * torch.sigmoid(-config.beta * ahead)).sum()  # 1 − σ(a) = σ(−a)
        return loss, _measures(rows, ratios.detach(), ahead.detach())


def _measures(rows: Rows, ratios: torch.Tensor, ahead: torch.Tensor) -> Measures:
    """Sums over rows: their means are those of the global batch, log ratios by label."""
    sums: dict[str, torch.Tensor | float] = {
        "accuracy": (ahead > 0).double().sum(),
        "kl": sum(row["kl"] for row in rows),
    }
    exact = ratios.double()
    shares = exact.new_tensor([row["share"] for row in rows])
    for name, label in (("desirable_logratio", True), ("undesirable_logratio", False)):
        if any(row["desirable"] == label or row["share"] < 1 for row in rows):
            own = exact.new_tensor([row["desirable"] == label for row in rows])
            sums[name] = (own * exact / shares).sum()
    return sums


class KlEstimate:
    """Adds to the rows of a global batch what KTO's loss needs of all of them: ``kl``, ``share``.

    ``kl`` is z_0 in nats, and ``share`` the share of the rows with a row's label. The ranks share
    the work, and all know all: neither depends on micro-batches or on the number of ranks.

    Args:
        scorer: the policy, or an engine around it.
        reference: log π_ref [1] of the reply of a row, and of ``mismatched`` rows.
        longest: see ``mismatched``.
        shares: whether replies to one history share a pass over it, as the model says.
        micro_batch_tokens: padded tokens in one forward pass.
    """

    def __init__(
        self,
        scorer: Forward,
        reference: Reference,
        longest: int,
        shares: bool,
        micro_batch_tokens: int,
    ) -> None:
        self._scorer, self._reference, self._longest = scorer, reference, longest
        self._shares, self._max_tokens = shares, micro_batch_tokens

    def __call__(self, rows: Rows) -> Rows:
        """The rows with ``kl`` and ``share``; all ranks call this."""
        ratios = map_rows(
            lambda some: _log_ratios(self._scorer, some, self._reference).split(1),
            lambda row: pairs.shape(row, self._shares),
            mismatched(rows, self._longest),
            self._max_tokens,
        )
        mean = float(torch.cat(ratios).double().mean()) if ratios else 0.0
        kl = 0.0 if mean < 0 else mean  # what is not a number stays so
        counts = Counter(row["desirable"] for row in rows)
        return [row | {"kl": kl, "share": counts[row["desirable"]] / len(rows)} for row in rows]


def mismatched(rows: Rows, longest: int) -> Rows:
    """Each history with the reply of the next row that has another history; none if all are alike.

    Args:
        rows: of the feedback view, a global batch.
        longest: tokens of a history and a reply together: what goes beyond is cut off the reply.
    """
    found = []
    for i, row in enumerate(rows):
        others = (rows[(i + step) % len(rows)] for step in range(1, len(rows)))
        history = row["history_ids"]
        other = next((one for one in others if one["history_ids"] != history), None)
        if other is not None:
            found.append(
                {
                    "dataset": row["dataset"],
                    "id": (row["id"], other["dataset"], other["id"]),
                    "history_ids": history,
                    "reply_ids": [other["reply_ids"][0][: longest - len(history)]],
                }
            )
    return found


class Mismatches:
    """The ``mismatched`` rows of all global batches of a run, and of its held-out rows.

    Args:
        data: training rows.
        held_out: held-out rows, which are one batch.
        config: of the run.

    Attributes:
        longest: tokens of the longest row: no mismatched row is longer.
    """

    def __init__(self, data: Mixture, held_out: Mixture, config: KtoConfig) -> None:
        self._data, self._held_out, self._config = data, held_out, config
        self.longest = max(int(rows.lengths().max(initial=1)) for rows in (data, held_out))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for rows in global_batches(self._data, self._config):
            yield from mismatched(rows, self.longest)
        yield from mismatched(list(self._held_out), self.longest)


def balance(desirable: float, config: KtoConfig) -> float:
    """λ_D·n_D / λ_U·n_U: how much good replies count for each bad one.

    Args:
        desirable: share of the training rows that is desirable, between 0 and 1.
        config: of the run.
    """
    good, bad = config.desirable_weight * desirable, config.undesirable_weight * (1 - desirable)
    return good / bad


def _log_ratios(scorer: Forward, rows: Rows, reference: Reference) -> torch.Tensor:
    """log π(y|x) − log π_ref(y|x) [B] of the one reply of each row, in nats."""
    logprobs = torch.cat(reply_logprobs(scorer, rows))
    return logprobs - moved(torch.cat([reference(row) for row in rows]), logprobs.device)
