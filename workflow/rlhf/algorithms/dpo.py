"""Direct preference optimization: the policy learns from ranked replies, without a reward model.

Rafailov et al. 2023 (arXiv 2305.18290): under a KL penalty β the best policy for a reward r has
r(x, y) = β·log π(y|x)/π_ref(y|x) + a constant of x, so a policy has an implicit reward, and a
preference model of rewards is a loss of the policy. Each update:

1. log π of every reply, summed over its tokens and its EOS: ``reply_logprobs``.
2. Less log π_ref, which the policy itself gave before its first update (``ReferenceLogprobs``):
   the log ratio of each reply.
3. In all pairs of a row, better − worse; their loss is ``sigmoid_loss`` or ``ipo_loss``.
4. On request, SFT's loss of the better reply is added, times ``sft_coefficient``.
5. The mean over a row's pairs, then over rows: every row counts the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from rlhf.algorithms import pairs
from rlhf.algorithms.replies import better_mean, per_token
from rlhf.config.dpo import DpoConfig
from rlhf.models.devices import moved


class DpoLoss:
    """The loss of a row: see ``RankedObjective``.

    Args:
        config: the run's configuration.
        reference: log π_ref [k] of the replies of a row.
    """

    def __init__(
        self, config: DpoConfig, reference: Callable[[dict[str, Any]], torch.Tensor]
    ) -> None:
        self._config, self._reference = config, reference

    def __call__(
        self, row: dict[str, Any], logprobs: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Mean loss and measures of a row's pairs, from log π [k] of its replies."""
        config = self._config
        reference = moved(self._reference(row), logprobs.device)
        ratios = logprobs - reference.to(logprobs)  # [k], nats
        better, worse = pairs.split(ratios)  # [P], [P]
        loss = self._of_pairs(better - worse).mean()
        measures = _measures(ratios.detach(), config.beta)
        if config.sft_coefficient:
            imitation = -better_mean(per_token(row, logprobs))
            loss = loss + config.sft_coefficient * imitation
            measures["sft_loss"] = imitation.detach().double()
        return loss, measures

    def _of_pairs(self, differences: torch.Tensor) -> torch.Tensor:
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
