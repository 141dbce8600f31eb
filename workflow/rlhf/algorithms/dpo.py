"""Direct preference optimization: the policy learns from ranked replies, without a reward model.

Rafailov et al. 2023 (arXiv 2305.18290): under a KL penalty β the best policy for a reward r has
r(x, y) = β·log π(y|x)/π_ref(y|x) + a constant of x, so a policy has an implicit reward, and a
preference model of rewards is a loss of the policy. Each update:

1. log π of every reply, summed over its tokens and its EOS: ``reply_logprobs``.
2. Less log π_ref, which the policy itself gave before its first update (``ReferenceLogprobs``):
   the log ratio of each reply.
3. In all pairs of a row, better − worse; their loss is ``sigmoid_loss`` or ``ipo_loss``.
4. The mean over a row's pairs, then over rows: every row counts the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch.nn import functional as F

from rlhf.algorithms import pairs
from rlhf.config.dpo import DpoConfig
from rlhf.models.devices import moved
from rlhf.models.roots import from_starts
from rlhf.training.engine.protocol import Forward
from rlhf.training.loop import map_rows
from rlhf.training.sums import Measures

Rows = list[dict[str, Any]]


class DpoObjective:
    """The loss of a policy's log ratios to its reference.

    Args:
        config: the run's configuration.
        reference: log π_ref [k] of the replies of a row.
        shares: whether replies to one history share a pass over it, as the model says.
    """

    def __init__(
        self, config: DpoConfig, reference: Callable[[dict[str, Any]], torch.Tensor], shares: bool
    ) -> None:
        self._config, self._reference, self._shares = config, reference, shares

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
            reference = moved(self._reference(row), logprobs.device)
            ratios = logprobs - reference.to(logprobs)  # [k], nats
            better, worse = pairs.split(ratios)  # [P], [P]
            losses.append(self._loss(better - worse).mean())
            for name, value in _measures(ratios.detach(), self._config.beta).items():
                sums[name] += value
        return torch.stack(losses).sum(), sums

    def _loss(self, differences: torch.Tensor) -> torch.Tensor:
        config = self._config
        if config.loss == "ipo":
            return ipo_loss(differences, config.beta)
        return sigmoid_loss(differences, config.beta, config.label_smoothing)


def sigmoid_loss(differences: torch.Tensor, beta: float, smoothing: float) -> torch.Tensor:
    """−(1 − ε)·log σ(β·h) − ε·log σ(−β·h) of each pair [P].

    Rafailov et al. 2023, equation 7; with ε > 0 conservative DPO (Mitchell 2023, "A note on DPO
    with noisy preferences"), for labels that are wrong with probability ε.

    Args:
        differences: h [P], log ratio of the better reply − that of the worse one.
        beta: β.
        smoothing: ε.
    """
    margins = beta * differences
    return -(1 - smoothing) * F.logsigmoid(margins) - smoothing * F.logsigmoid(-margins)


def ipo_loss(differences: torch.Tensor, beta: float) -> torch.Tensor:
    """(h − 1/(2β))² of each pair [P]: the margin has a target, however sure the preference.

    Azar et al. 2023 (arXiv 2310.12036), equation 17, where β is τ.

    Args:
        differences: h [P], log ratio of the better reply − that of the worse one.
        beta: β.
    """
    return (differences - 1 / (2 * beta)) ** 2


def _measures(ratios: torch.Tensor, beta: float) -> dict[str, torch.Tensor]:
    """Whether the implicit rewards β·ratio order a row's replies; means over its pairs.

    Args:
        ratios: log ratios [k], best reply first.
        beta: β.
    """
    better, worse = pairs.split(ratios)
    return {
        "accuracy": pairs.accuracy(ratios),
        "kendall_tau": pairs.kendall_tau(ratios),
        "reward_margin": beta * (better - worse).mean().double(),
        "chosen_logratio": better.mean().double(),
        "rejected_logratio": worse.mean().double(),
    }


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
        self._logprobs: dict[tuple[str, str], torch.Tensor] = {}

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
        return chain.from_iterable(self._sets)

    def _keep(self, values: Sequence[torch.Tensor]) -> None:
        names = ((row["dataset"], row["id"]) for row in self._rows())
        self._logprobs = dict(zip(names, values, strict=True))
