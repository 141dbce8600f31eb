"""Odds ratio preference optimization."""

from __future__ import annotations

from rlhf.config.base import key
from rlhf.config.offline import OfflineConfig, StartConfig
from rlhf.config.training import OptimizerConfig


class OrpoOptimizerConfig(OptimizerConfig):
    """AdamW and its schedule."""

    learning_rate: float = key(8e-6, gt=0, about="peak learning rate", source="Hong et al. 2024")


class OrpoConfig(OfflineConfig, StartConfig):
    """One ORPO run."""

    odds_ratio_coefficient: float = key(
        0.1,
        ge=0,
        about="weight λ of the odds ratio's loss beside that of SFT",
        source="Hong et al. 2024",
    )
    optimizer: OrpoOptimizerConfig = key(OrpoOptimizerConfig(), about="AdamW and its schedule")
