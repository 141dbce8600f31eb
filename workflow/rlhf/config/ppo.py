"""PPO: what it adds to the on-policy methods' common keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator

from rlhf.config.base import Strict, key
from rlhf.config.online import OnlineConfig, RewardShapingConfig


class PpoRewardsConfig(RewardShapingConfig):
    """What becomes of the reward model's score, in this order: calibrate, scale, clip, penalty."""

    whiten: bool = key(False, about="whiten the per-token rewards without shifting their mean")

    @model_validator(mode="before")
    @classmethod
    def _baseline_is_rloo(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "baseline" in values:
            raise ValueError(
                "baseline: responses to one prompt are compared by RLOO, a method of its own: "
                "write the run under `rloo:`, without `value`, `gamma`, `lam` and `rewards.whiten`"
            )
        return values


class ValueConfig(Strict):
    """The value function."""

    kind: Literal["head", "critic"] = key(
        "head",
        about="`head`: one linear layer on the policy's last hidden state, zero at first; "
        "`critic`: a separate model that starts from the reward model",
    )
    coefficient: float = key(0.1, gt=0, about="weight of the value loss")
    clip: float = key(0.2, gt=0, about="clip range of the value", source="Stiennon et al. 2020")
    learning_rate: float = key(
        1e-4, gt=0, about="learning rate of the value head or critic, with the policy's schedule"
    )
    adapter: bool = key(
        True,
        about="whether a critic gets an adapter like the policy's, where that has one; `false`: "
        "all its weights are trained",
    )


class PpoConfig(OnlineConfig):
    """One PPO run."""

    rewards: PpoRewardsConfig = key(PpoRewardsConfig(), about="from score to reward")
    value: ValueConfig = key(ValueConfig(), about="the value function")
    clip: float = key(0.2, gt=0, lt=1, about="clip range of the probability ratio")
    gamma: float = key(1.0, gt=0, le=1, about="discount")
    lam: float = key(0.95, ge=0, le=1, about="λ of GAE", source="Schulman et al. 2016")

    @property
    def learning_rates(self) -> dict[str, float]:
        """See ``OnlineConfig``."""
        return super().learning_rates | {"value.learning_rate": self.value.learning_rate}
