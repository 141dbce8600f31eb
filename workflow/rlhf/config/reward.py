"""Reward models."""

from __future__ import annotations

from rlhf.config.base import key
from rlhf.config.offline import OfflineConfig, StartConfig


class RewardConfig(OfflineConfig, StartConfig):
    """One reward model."""

    score_l2: float = key(
        0.001, ge=0, about="weight of ½(s⁺² + s⁻²) in the loss", source="Open-Assistant"
    )
    calibration_samples: int = key(
        256, ge=2, about="SFT demonstrations whose scores are normalized to mean 0 and std 1"
    )
