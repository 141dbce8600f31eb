"""AdamW and the learning rate's schedule."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn


def build_optimizer(groups: list[tuple[list[nn.Parameter], float]], config: dict[str, Any]) -> Any:
    """AdamW over groups of (parameters, peak learning rate); vectors and biases do not decay.

    Args:
        groups: parameters with their peak learning rates.
        config: the ``optimizer`` section.
    """
    split = []
    for parameters, peak in groups:
        trained = [p for p in parameters if p.requires_grad]
        for chosen, decay in (
            ([p for p in trained if p.ndim >= 2], config["weight_decay"]),
            ([p for p in trained if p.ndim < 2], 0.0),
        ):
            if chosen:
                split.append({"params": chosen, "weight_decay": decay, "peak": peak, "lr": peak})
    betas = (config["beta1"], config["beta2"])
    return torch.optim.AdamW(split, betas=betas, eps=config["eps"], fused=True)


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


def set_learning_rate(optimizer: Any, factor: float) -> float:
    """Scale every group's peak by ``factor``; returns the first group's learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return optimizer.param_groups[0]["lr"]


def step(optimizer: Any, max_norm: float) -> float:
    """Clip to the global norm, update, clear; returns the norm before clipping.

    With a norm that is not finite nothing is updated.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = float(nn.utils.clip_grad_norm_(parameters, max_norm))
    if math.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def optimizer_state(optimizer: Any) -> dict[str, Any]:
    """The optimizer's moments and counters (the learning rate follows from the step)."""
    return optimizer.state_dict()["state"]


def load_optimizer_state(optimizer: Any, state: dict[str, Any]) -> None:
    """Put moments and counters back."""
    whole = optimizer.state_dict()
    whole["state"] = state
    optimizer.load_state_dict(whole)
