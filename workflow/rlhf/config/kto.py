"""Kahneman-Tversky optimization."""

from __future__ import annotations

from rlhf.config.base import NAME_PATTERN, key
from rlhf.config.offline import OfflineConfig
from rlhf.config.training import OptimizerConfig


class KtoOptimizerConfig(OptimizerConfig):
    """AdamW and its schedule."""

    learning_rate: float = key(1e-6, gt=0, about="peak learning rate", source="TRL")


class KtoConfig(OfflineConfig):
    """One KTO run."""

    sft: str = key(about="name of the SFT run: initial policy and reference", pattern=NAME_PATTERN)
    beta: float = key(
        0.1,
        gt=0,
        about="scale β of the rewards: the larger, the sooner a reply is good or bad enough",
        source="Ethayarajh et al. 2024",
    )
    desirable_weight: float = key(
        1.0,
        gt=0,
        about="weight λ_D of good replies; λ_D times their number should be 1 to 4/3 times λ_U "
        "times the number of bad ones",
        source="Ethayarajh et al. 2024",
    )
    undesirable_weight: float = key(
        1.0, gt=0, about="weight λ_U of bad replies", source="Ethayarajh et al. 2024"
    )
    global_batch_size: int = key(
        16, ge=2, about="rows in one update; the KL divergence is estimated on them", unit="rows"
    )
    optimizer: KtoOptimizerConfig = key(KtoOptimizerConfig(), about="AdamW and its schedule")
