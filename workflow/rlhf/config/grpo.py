"""GRPO: what it adds to the on-policy methods' common keys."""

from __future__ import annotations

from typing import Literal

from rlhf.config.base import key
from rlhf.config.online import KlConfig, LossConfig, OnlineConfig


class GrpoKlConfig(KlConfig):
    """The penalty for leaving the reference."""

    coefficient: float = key(
        0.04, ge=0, about="(initial) weight β of the KL penalty", source="Shao et al. 2024"
    )
    where: Literal["reward", "loss"] = key(
        "loss",
        about="`reward`: subtracted from the rewards of the tokens; `loss`: a term of the loss",
        source="Shao et al. 2024",
    )
    estimator: Literal["k1", "k2", "k3"] = key(
        "k3",
        about="estimator of the KL in the penalty (Schulman, Approximating KL divergence)",
        source="Shao et al. 2024",
    )


class GrpoLossConfig(LossConfig):
    """The policy's loss."""

    aggregate: Literal["token", "response", "constant"] = key(
        "response",
        about="mean over the tokens of a minibatch (`token`), over the tokens of each response and "
        "then over responses (`response`), or over responses of the sum over tokens divided by "
        "`sampling.max_new_tokens` (`constant`)",
        source="Shao et al. 2024; `token`: Yu et al. 2025 (DAPO); `constant`: Liu et al. 2025 "
        "(Dr. GRPO)",
    )


class GrpoConfig(OnlineConfig):
    """One GRPO run."""

    responses_per_prompt: int = key(
        8,
        ge=2,
        about="responses sampled for each prompt of an update, out of its batch: a group, whose "
        "members are compared with each other",
        source="TRL",
    )
    normalize: Literal["std", "none"] = key(
        "std",
        about="whether advantages are divided by the standard deviation of their group",
        source="Shao et al. 2024; `none`: Liu et al. 2025 (Dr. GRPO)",
    )
    kl: GrpoKlConfig = key(GrpoKlConfig(), about="penalty for leaving the reference")
    loss: GrpoLossConfig = key(GrpoLossConfig(), about="the policy's loss")
