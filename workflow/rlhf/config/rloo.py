"""RLOO: what it adds to the on-policy methods' common keys."""

from __future__ import annotations

from pydantic import model_validator

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

    @model_validator(mode="after")
    def _plain_reinforce_is_on_policy(self) -> RlooConfig:
        if self.clip is None and self.epochs > 1:
            raise ValueError(
                f"epochs {self.epochs} needs `clip`: without a probability ratio a response is "
                "trained on once"
            )
        return self
