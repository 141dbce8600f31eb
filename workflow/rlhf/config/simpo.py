"""Simple preference optimization."""

from __future__ import annotations

from rlhf.config.base import NAME_PATTERN, key
from rlhf.config.offline import OfflineConfig
from rlhf.config.training import OptimizerConfig


class SimpoOptimizerConfig(OptimizerConfig):
    """AdamW and its schedule."""

    learning_rate: float = key(1e-6, gt=0, about="peak learning rate", source="Meng et al. 2024")


class SimpoConfig(OfflineConfig):
    """One SimPO run."""

    sft: str = key(about="name of the SFT run that it starts from", pattern=NAME_PATTERN)
    beta: float = key(
        2.0,
        gt=0,
        about="scale β of the rewards, which are mean log probabilities of tokens",
        source="Meng et al. 2024",
    )
    margin: float = key(
        1.0,
        ge=0,
        about="margin γ by which the rewards of a pair are to be apart; the paper tunes γ/β "
        "between 0 and 1",
        source="Meng et al. 2024",
    )
    sft_coefficient: float = key(
        0.0,
        ge=0,
        about="weight of SFT's loss on the better reply of each pair, per token; with it the "
        "method is called CPO-SimPO",
        source="Xu et al. 2024 (CPO)",
    )
    optimizer: SimpoOptimizerConfig = key(SimpoOptimizerConfig(), about="AdamW and its schedule")
