"""Contrastive preference optimization: DPO's loss without a reference, and imitation in its place.

Xu et al. 2024 (arXiv 2401.08417). Each update:

1. log π of every reply, summed over its tokens and its EOS.
2. The loss of a pair: −log σ(β·(better − worse)), DPO's for a reference that finds all replies
   equally probable (equation 4).
3. Behaviour cloning of the better reply keeps the policy near good replies: SFT's loss of it,
   times ``sft_coefficient`` (equation 5).
4. The mean over a row's pairs, then over rows: every row counts the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from rlhf.algorithms import pairs
from rlhf.algorithms.replies import better_mean, order_measures, per_token
from rlhf.config.cpo import CpoConfig


class CpoLoss:
    """The loss of a row: see ``RankedObjective``.

    Args:
        config: the run's configuration.
    """

    def __init__(self, config: CpoConfig) -> None:
        self._config = config

    def __call__(
        self, row: dict[str, Any], logprobs: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Mean loss and measures of a row's pairs, from log π [k] of its replies."""
        config = self._config
        means = per_token(row, logprobs)
        better, worse = pairs.split(config.beta * logprobs)  # [P], [P]
        margins = better - worse
        loss = -F.logsigmoid(margins).mean() - config.sft_coefficient * better_mean(means)
        margin = {"reward_margin": margins.detach().mean().double()}
        return loss, order_measures(logprobs.detach(), means) | margin
