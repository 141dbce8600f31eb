"""What the training stages share."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from rlhf.config.base import NAME_PATTERN, Strict, key
from rlhf.config.data import DuplicatesConfig, Shares

Precision = Literal["bfloat16", "float32"]
PRECISION: Any = key(
    "bfloat16",
    about="type of matrix products; weights, optimizer and losses are float32 always. `bfloat16` "
    "is fast on GPUs since Ampere and on CPUs that have it, slow on others",
    source="TRL",
)


class OptimizerConfig(Strict):
    """AdamW and its schedule."""

    learning_rate: float = key(1e-5, gt=0, about="peak learning rate")
    schedule: Literal["constant", "linear", "cosine"] = key(
        "cosine", about="how the learning rate falls after the warm-up; linear and cosine end at 0"
    )
    warmup: float = key(0.03, ge=0, lt=1, about="share of the steps with a rising learning rate")
    weight_decay: float = key(0.0, ge=0, about="decoupled weight decay")
    beta1: float = key(0.9, ge=0, lt=1, about="Adam's first moment decay")
    beta2: float = key(
        0.95, ge=0, lt=1, about="Adam's second moment decay", source="Open-Assistant"
    )
    eps: float = key(1e-8, gt=0, about="Adam's epsilon")
    max_grad_norm: float = key(1.0, gt=0, about="gradients are clipped to this global norm")


class SupervisedConfig(Strict):
    """SFT and reward models."""

    model: str | None = key(
        None, about="name of the base model that it starts from", pattern=NAME_PATTERN
    )
    sft: str | None = key(
        None, about="or: name of the SFT run that it starts from", pattern=NAME_PATTERN
    )
    data: Shares = key(about="dataset name → what is taken from it", min_length=1)
    duplicates: DuplicatesConfig = key(
        DuplicatesConfig(), about="repeated rows, within the datasets and between them"
    )
    epochs: int = key(1, ge=1, about="passes over the data")
    global_batch_size: int = key(16, ge=1, about="rows in one update", unit="rows")
    length_grouping: int = key(
        0,
        ge=0,
        about="batches of like lengths: rows are sorted by length among this many batches, then "
        "the batches are shuffled; 0: batches of any lengths",
        unit="batches",
    )
    optimizer: OptimizerConfig = key(OptimizerConfig(), about="AdamW and its schedule")
    freeze_layers: int = key(
        0, ge=0, about="decoder layers, from the bottom, that stay as they are (embeddings too)"
    )
    precision: Precision = PRECISION
    evaluations: int = key(2, ge=1, about="times that the validation rows are evaluated in a run")
    seed: int = key(0, ge=0, about="seed of the order of the data and of new weights")

    @model_validator(mode="after")
    def _one_start(self) -> SupervisedConfig:
        if (self.model is None) == (self.sft is None):
            raise ValueError("give exactly one of model, sft: what it starts from")
        return self


class SftConfig(SupervisedConfig):
    """One supervised fine-tuning run."""


class RewardConfig(SupervisedConfig):
    """One reward model."""

    score_l2: float = key(
        0.001, ge=0, about="weight of ½(s⁺² + s⁻²) in the loss", source="Open-Assistant"
    )
    calibration_samples: int = key(
        256, ge=2, about="SFT demonstrations whose scores are set to mean 0 and std 1"
    )
