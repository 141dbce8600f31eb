"""PPO: what it adds to the on-policy methods' common keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import ValidationInfo, model_validator

from rlhf.config.base import Strict, is_written_out, key
from rlhf.config.mixture import Shares
from rlhf.config.online import OnlineConfig, RewardShapingConfig
from rlhf.config.presets import Preset, with_preset


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

    kind: Literal["head", "branch", "critic"] = key(
        "head",
        about="`head`: one linear layer on the policy's last hidden state, zero at first; "
        "`branch`: upper layers of its own on the policy's lower ones; `critic`: a separate model",
    )
    layers: int | None = key(
        None, ge=1, about="upper layers of a `branch`, copied from the policy's; required there"
    )
    start: Literal["reward", "sft"] = key(
        "reward",
        about="what a `critic` starts from: the reward model, or the SFT model with values of 0",
    )
    warmup: int = key(
        0,
        ge=0,
        about="first updates of a run in which the value function alone is trained",
        unit="updates",
        source="Yuan et al. 2025 (VC-PPO), who take 50",
    )
    coefficient: float = key(0.1, gt=0, about="weight of the value loss")
    clip: float | None = key(
        0.2,
        gt=0,
        about="clip range of the value; `null`: its loss is the plain squared error",
        source="Stiennon et al. 2020",
    )
    learning_rate: float = key(
        1e-4, gt=0, about="learning rate of the value function, with the policy's schedule"
    )
    adapter: bool = key(
        True,
        about="whether a critic gets an adapter like the policy's, where that has one; `false`: "
        "all its weights are trained",
    )

    @property
    def from_sft(self) -> bool:
        """Whether a critic starts from the SFT model."""
        return self.start == "sft"

    @model_validator(mode="after")
    def _kind_has_keys(self) -> Self:
        if (self.kind == "branch") != (self.layers is not None):
            raise ValueError(
                f"layers: how many upper layers a branch has; kind is {self.kind}: "
                + ("write layers" if self.layers is None else "leave layers out")
            )
        if self.kind != "critic" and self.start != "reward":
            raise ValueError(f"start: {self.start} is for kind: critic, not for {self.kind}")
        return self


class PtxConfig(Strict):
    """A pretraining loss: the policy goes on learning from demonstrations, or plain text."""

    data: Shares = key(about="dataset name → what is taken from it", min_length=1)
    coefficient: float = key(
        27.8,
        ge=0,
        about="weight γ of the mean cross-entropy over tokens; 0: as if there were no `ptx`",
        source="Ouyang et al. 2022; DeepSpeed-Chat",
    )
    batch_size: int | None = key(
        None, ge=1, about="rows in one optimizer step; absent: `minibatch_size`", unit="rows"
    )


class PpoConfig(OnlineConfig):
    """One PPO run."""

    preset: Preset | None = key(
        None,
        about="values of another system, for keys that the run does not write itself; absent: the "
        "defaults of this page",
    )
    rewards: PpoRewardsConfig = key(PpoRewardsConfig(), about="from score to reward")
    value: ValueConfig = key(ValueConfig(), about="the value function")
    clip: float = key(0.2, gt=0, lt=1, about="clip range of the probability ratio")
    advantages: Literal["whiten", "shift", "none"] = key(
        "whiten",
        about="`whiten`: to mean 0 and variance 1 over all tokens of an update; `shift`: to mean "
        "0; `none`: as they are",
    )
    ptx: PtxConfig | None = key(
        None,
        about="a pretraining loss beside PPO's, in every optimizer step; absent: there is none",
    )
    gamma: float = key(1.0, gt=0, le=1, about="discount")
    lam: float = key(0.95, ge=0, le=1, about="λ of GAE", source="Schulman et al. 2016")

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, values: Any, info: ValidationInfo) -> Any:
        named = isinstance(values, Mapping) and isinstance(values.get("preset"), str)
        return with_preset(values) if named and not is_written_out(info) else values

    @property
    def learning_rates(self) -> dict[str, float]:
        """See ``OnlineConfig``."""
        return super().learning_rates | {"value.learning_rate": self.value.learning_rate}

    @property
    def value_updates(self) -> int:
        """See ``OnlineConfig``."""
        return self.value.warmup

    @model_validator(mode="after")
    def _value_fits(self) -> Self:
        if self.value.warmup >= self.updates:
            raise ValueError(
                f"value.warmup {self.value.warmup}: the policy would never be trained in "
                f"{self.updates} updates"
            )
        if self.value.kind == "branch" and self.adapter:
            raise ValueError(
                "value.kind: branch copies layers to train them whole, and adapter freezes those "
                "that it shares: write head, or critic, which may have an adapter too"
            )
        return self
