"""Direct preference optimization."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from rlhf.config.base import NAME_PATTERN, key
from rlhf.config.offline import OfflineConfig
from rlhf.config.training import OptimizerConfig


class DpoOptimizerConfig(OptimizerConfig):
    """AdamW and its schedule."""

    learning_rate: float = key(1e-6, gt=0, about="peak learning rate", source="TRL")


class DpoConfig(OfflineConfig):
    """One DPO run."""

    sft: str = key(about="name of the SFT run: initial policy and reference", pattern=NAME_PATTERN)
    loss: Literal["sigmoid", "ipo"] = key(
        "sigmoid",
        about="loss of a pair: `sigmoid` is DPO's own; `ipo` is a squared distance to a margin",
        source="Rafailov et al. 2023; Azar et al. 2023",
    )
    beta: float = key(
        0.1,
        gt=0,
        about="weight β of the KL penalty that the loss stands for; in `ipo` it is called τ",
        source="Rafailov et al. 2023",
    )
    label_smoothing: float = key(
        0.0,
        ge=0,
        lt=0.5,
        about="share of the preferences that are taken to be wrong (conservative DPO); `sigmoid` "
        "alone",
        source="Mitchell 2023",
    )
    sft_coefficient: float = key(
        0.0,
        ge=0,
        about="weight of SFT's loss on the better reply of each pair, per token; 0: DPO alone",
        source="Pang et al. 2024 (RPO); LLaMA-Factory's `pref_ftx`",
    )
    optimizer: DpoOptimizerConfig = key(DpoOptimizerConfig(), about="AdamW and its schedule")

    @model_validator(mode="after")
    def _smooths_labels(self) -> DpoConfig:
        if self.label_smoothing and self.loss != "sigmoid":
            raise ValueError(f"label_smoothing belongs to loss: sigmoid, not to {self.loss}")
        return self
