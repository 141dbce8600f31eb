"""Odds ratio preference optimization: SFT and preferences in one run, without a reference.

Hong et al. 2024 (arXiv 2403.07691). Each update:

1. log P(y|x) of every reply: the mean of log π over its tokens and its EOS (section 4.1).
2. The loss of SFT on the better reply of a pair: −log P of it.
3. odds(y|x) = P / (1 − P); the odds ratio's loss is −log σ(log odds of the better reply − log
   odds of the worse one) (equation 7).
4. Their sum, the second times λ (equation 6): the mean over a row's pairs, then over rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from rlhf.algorithms import pairs
from rlhf.algorithms.replies import better_mean, order_measures, per_token
from rlhf.config.orpo import OrpoConfig

# Of a mean log probability: a reply that is certain to rounding would have infinite odds.
CERTAIN = -1e-6


class OrpoLoss:
    """The loss of a row: see ``RankedObjective``.

    Args:
        config: the run's configuration.
    """

    def __init__(self, config: OrpoConfig) -> None:
        self._coefficient = config.odds_ratio_coefficient

    def __call__(
        self, row: dict[str, Any], logprobs: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Mean loss and measures of a row's pairs, from log π [k] of its replies."""
        means = per_token(row, logprobs)
        odds = log_odds(means)
        better, worse = pairs.split(odds)
        ratios = better - worse  # [P]
        loss = -better_mean(means) - self._coefficient * F.logsigmoid(ratios).mean()
        ratio = {"log_odds_ratio": ratios.detach().mean().double()}
        return loss, order_measures(odds.detach(), means) | ratio


def log_odds(logprobs: torch.Tensor) -> torch.Tensor:
    """log(P / (1 − P)) of log P < 0."""
    known = logprobs.clamp(max=CERTAIN)
    return known - torch.log(-torch.expm1(known))
