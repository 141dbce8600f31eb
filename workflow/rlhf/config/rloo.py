"""RLOO: what it adds to the on-policy methods' common keys."""

from __future__ import annotations

from rlhf.config.base import key
from rlhf.config.online import OnlineConfig


class RlooConfig(OnlineConfig):
    """One RLOO run."""

    responses_per_prompt: int = key(
        4,
        ge=2,
        about="responses sampled for each prompt of an update, out of its batch; each is compared "
        "with the others",
        source="Ahmadian et al. 2024",
    )
    clip: float | None = key(
        None,
        gt=0,
        lt=1,
        about="clip range of the probability ratio, as in PPO; without it plain REINFORCE, which "
        "trains on a response once",
        source="Ahmadian et al. 2024",
    )
