"""AdamW and the learning rate's schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from rlhf.config.training import OptimizerConfig
from rlhf.errors import ConfigError

WHERE = "optimizer.kind"


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


def check_optimizer(config: OptimizerConfig, device: torch.device, engine: str) -> None:
    """Refuse moments of 8 bits where they can't be had, before anything is trained.

    Args:
        config: the optimizer's.
        device: what computes.
        engine: the kind that trains.

    Raises:
        ConfigError: there is no GPU, the engine holds slices, or bitsandbytes is not installed.
    """
    if config.kind != "adamw_8bit":
        return
    if device.type != "cuda":
        raise ConfigError(
            "AdamW with moments of 8 bits needs a GPU: on a CPU there is nothing to gain from it.",
            where=WHERE,
            expected="a job with a GPU",
            hint="write kind: adamw, or give the stage gpus_per_node: 1 or more",
        )
    if engine != "replicated":
        raise ConfigError(
            f"The engine {engine} can't keep moments of 8 bits: it cuts them, and their scales "
            "are of whole blocks.",
            where=WHERE,
            expected="cluster.engine: replicated",
            hint="write it, or kind: adamw; an engine that cuts needs less memory by itself",
        )
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "Moments of 8 bits are bitsandbytes', which is not installed.",
            where=WHERE,
            hint="`make setup`, or install envs/train.txt in the ranks' environment",
        ) from error


def build_optimizer(
    groups: list[tuple[list[nn.Parameter], float]],
    config: OptimizerConfig,
    wide: Iterable[torch.Tensor] = (),
) -> Any:
    """AdamW over groups of (parameters, peak learning rate); vectors and biases do not decay.

    Args:
        groups: parameters with their peak learning rates.
        config: AdamW's.
        wide: parameters whose moments keep 32 bits in any case, such as embeddings; bitsandbytes
            keeps those of small tensors too.
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
    if config.kind == "adamw_8bit":
        from bitsandbytes.optim import AdamW8bit, GlobalOptimManager

        GlobalOptimManager.get_instance().override_config(list(wide), "optim_bits", 32)
        return AdamW8bit(split, betas=betas, eps=config.eps)
    return torch.optim.AdamW(split, betas=betas, eps=config.eps, fused=True)


def restored(
    optimizer: Any, updates: float, moments: Mapping[str, torch.Tensor], device: torch.device
) -> dict[str, Any]:
    """An optimizer's state of one parameter, from what was saved of it.

    Args:
        optimizer: from ``build_optimizer``.
        updates: that the parameter has seen.
        moments: by the optimizer's own names for them.
        device: where the parameter is.
    """
    here = {name: moment.to(device) for name, moment in moments.items()}
    if isinstance(optimizer, torch.optim.AdamW):
        return {"step": torch.tensor(updates, device=device), **here}
    if "absmax1" in here:  # moments of 8 bits stand for values of a table
        tables = ("qmap1", "dynamic"), ("qmap2", "udynamic")
        here |= {name: optimizer.name2qmap[table].to(device) for name, table in tables}
    return {"step": int(updates), **here}


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
