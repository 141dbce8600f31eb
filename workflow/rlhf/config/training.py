"""What all runs that train share: the optimizer and the precision."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from rlhf.config.base import Strict, key

Precision = Literal["bfloat16", "float16", "float32"]
PRECISION: Any = key(
    "bfloat16",
    about="type of matrix products; weights, optimizer and losses are always float32. `bfloat16` "
    "is fast on GPUs since Ampere and on CPUs that have it, slow on others; `float16`, whose loss "
    "is scaled, is for GPUs before Ampere",
    source="TRL",
)
# What a stage gets is one run, so this is in no slice: another seed makes none stale.
SEEDS: Any = key(
    None,
    exclude=True,
    min_length=1,
    about="in place of `seed`: seeds of as many runs, each called `<name>-seed<seed>`",
)


def check_seeds(run: BaseModel, seeds: list[int] | None) -> None:
    """Refuse seeds that are not different numbers, or that stand beside ``seed``.

    Raises:
        ValueError: they do.
    """
    if seeds is None:
        return
    if "seed" in run.model_fields_set:
        raise ValueError("give seed or seeds, not both")
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds {seeds}: should be different whole numbers from 0 up")


class EmaConfig(Strict):
    """An exponential moving average of the trained weights, which is published in their place."""

    decay: float = key(
        0.992,
        gt=0,
        lt=1,
        about="the average becomes decay × itself + (1 − decay) × the weights, after each update",
        source="DeepSpeed-Chat",
    )


EMA: Any = key(
    None,
    about="an exponential moving average of the trained weights is validated and published in "
    "their place; absent: the weights themselves are",
)


class OptimizerConfig(Strict):
    """AdamW and its schedule."""

    kind: Literal["adamw", "adamw_8bit"] = key(
        "adamw",
        about="`adamw_8bit`: moments in 8 bits, by bitsandbytes; on GPUs, with whole replicas",
        source="Dettmers et al. 2022",
    )
    learning_rate: float = key(1e-5, gt=0, about="peak learning rate")
    schedule: Literal["constant", "linear", "cosine"] = key(
        "cosine", about="how the learning rate falls after the warm-up; linear and cosine end at 0"
    )
    warmup: float = key(
        0.03, ge=0, lt=1, about="share of the steps in which the learning rate rises"
    )
    weight_decay: float = key(0.0, ge=0, about="decoupled weight decay")
    beta1: float = key(0.9, ge=0, lt=1, about="Adam's first moment decay")
    beta2: float = key(
        0.95, ge=0, lt=1, about="Adam's second moment decay", source="Open-Assistant"
    )
    eps: float = key(1e-8, gt=0, about="Adam's epsilon")
    max_grad_norm: float = key(1.0, gt=0, about="gradients are clipped to this global norm")
