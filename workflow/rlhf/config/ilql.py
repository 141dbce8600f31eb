"""Implicit language Q-learning."""

from __future__ import annotations

from typing import Literal

from rlhf.config.base import NAME_PATTERN, key
from rlhf.config.offline import OfflineConfig
from rlhf.config.training import OptimizerConfig


class IlqlOptimizerConfig(OptimizerConfig):
    """AdamW and its schedule."""

    learning_rate: float = key(5e-5, gt=0, about="peak learning rate", source="trlX")


class IlqlConfig(OfflineConfig):
    """One ILQL run."""

    sft: str = key(about="name of the SFT run: initial policy", pattern=NAME_PATTERN)
    rewards: Literal["rank", "scores"] = key(
        "rank",
        about="rewards of a row's replies: `rank`: from 1 to −1 in even steps, best first; "
        "`scores`: their own scores, with mean 0 and standard deviation 1 over all replies",
        source="trlX",
    )
    gamma: float = key(0.99, ge=0, le=1, about="discount γ", source="Snell et al. 2022")
    tau: float = key(
        0.7,
        gt=0,
        lt=1,
        about="expectile τ of Q that V learns: 0.5 is the mean, near 1 the largest",
        source="trlX",
    )
    cql_scale: float = key(
        0.1,
        ge=0,
        about="weight of the conservative loss, which keeps Q low for tokens that are not in the "
        "data",
        source="trlX",
    )
    awac_scale: float = key(1.0, ge=0, about="weight of the policy's loss", source="trlX")
    awac_beta: float = key(
        0.0,
        ge=0,
        about="strength of the advantage as a weight in the policy's loss; 0: all tokens count the "
        "same, as in SFT. trlX calls it `beta`",
        source="Snell et al. 2022",
    )
    two_qs: bool = key(
        True,
        about="learn two Q, of whose targets the lesser value counts; else one",
        source="Snell et al. 2022",
    )
    alpha: float = key(
        0.005,
        gt=0,
        le=1,
        about="share of Q that its target takes over at a time (Polyak averaging)",
        source="Snell et al. 2022",
    )
    steps_for_target_q_sync: int = key(
        1, ge=1, about="updates from one time to the next", unit="optimizer steps"
    )
    optimizer: IlqlOptimizerConfig = key(IlqlOptimizerConfig(), about="AdamW and its schedule")
