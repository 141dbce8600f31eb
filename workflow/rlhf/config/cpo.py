"""Contrastive preference optimization."""

from __future__ import annotations

from rlhf.config.base import NAME_PATTERN, key
from rlhf.config.offline import OfflineConfig
from rlhf.config.training import OptimizerConfig


class CpoOptimizerConfig(OptimizerConfig):
    """AdamW and its schedule."""

    learning_rate: float = key(1e-6, gt=0, about="peak learning rate", source="TRL")


class CpoConfig(OfflineConfig):
    """One CPO run."""

    sft: str = key(about="name of the SFT run that it starts from", pattern=NAME_PATTERN)
    beta: float = key(
        0.1,
        gt=0,
        about="scale β of the rewards, which are log probabilities of replies",
        source="Xu et al. 2024",
    )
    sft_coefficient: float = key(
        1.0,
        ge=0,
        about="weight of behaviour cloning: SFT's loss on the better reply of each pair, per "
        "token; 0: DPO's loss without a reference",
        source="Xu et al. 2024",
    )
    optimizer: CpoOptimizerConfig = key(CpoOptimizerConfig(), about="AdamW and its schedule")
