"""Simple preference optimization: mean log probabilities as rewards, without a reference.

Meng et al. 2024 (arXiv 2405.14734). Each update:

1. The reward of every reply: β times the mean of log π over its tokens and its EOS (equation 4).
2. The loss of a pair: −log σ(better − worse − γ), so a pair is to be apart by γ (equation 6).
3. On request, SFT's loss of the better reply is added, times ``sft_coefficient``: CPO-SimPO.
4. The mean over a row's pairs, then over rows: every row counts the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from rlhf.algorithms import pairs
from rlhf.algorithms.replies import better_mean, order_measures, per_token
from rlhf.config.simpo import SimpoConfig


class SimpoLoss:
    """The loss of a row: see ``RankedObjective``.

    Args:
        config: the run's configuration.
    """

    def __init__(self, config: SimpoConfig) -> None:
        self._config = config

    def __call__(
        self, row: dict[str, Any], logprobs: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Mean loss and measures of a row's pairs, from log π [k] of its replies."""
        config = self._config
        means = per_token(row, logprobs)
        better, worse = pairs.split(config.beta * means)  # [P], [P]
        margins = better - worse
        loss = -F.logsigmoid(margins - config.margin).mean()
        if config.sft_coefficient:
            loss = loss - config.sft_coefficient * better_mean(means)
        margin = {"reward_margin": margins.detach().mean().double()}
        return loss, order_measures(means.detach(), means) | margin
