"""AdamW and the learning rate's schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from rlhf.config.training import OptimizerConfig


def parameter_groups(
    root: nn.Module, rates: Mapping[str, float]
) -> list[tuple[list[nn.Parameter], float]]:
    """Parameters with their peak learning rates, by the prefix of their names.

    Args:
        root: the module that is trained.
        rates: prefix → peak learning rate; ``""`` stands for all.
    """
    return [
        ([p for name, p in root.named_parameters() if name.startswith(prefix)], rate)
        for prefix, rate in rates.items()
    ]


def build_optimizer(groups: list[tuple[list[nn.Parameter], float]], config: OptimizerConfig) -> Any:
    """AdamW over groups of (parameters, peak learning rate); vectors and biases do not decay.

    Args:
        groups: parameters with their peak learning rates.
        config: AdamW's.
    """
    split = []
    for parameters, peak in groups:
        trained = [p for p in parameters if p.requires_grad]
        for chosen, decay in (
            ([p for p in trained if p.ndim >= 2], config.weight_decay),
            ([p for p in trained if p.ndim < 2], 0.0),
        ):
            if chosen:
                split.append({"params": chosen, "weight_decay": decay, "peak": peak, "lr": peak})
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(split, betas=betas, eps=config.eps, fused=True)


def learning_rate_factor(step: int, steps: int, schedule: str, warmup: float) -> float:
    """Share of the peak learning rate in update ``step`` (from 0) of ``steps``.

    Linear and cosine schedules are 0 just after the last update.
    """
    warm = math.ceil(warmup * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    done = (step - warm) / max(1, steps - warm)
    if schedule == "constant":
        return 1.0
    return 1 - done if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
