"""REINFORCE++: what it adds to the on-policy methods' common keys."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from rlhf.config.base import key
from rlhf.config.online import OnlineConfig


class ReinforceConfig(OnlineConfig):
    """One REINFORCE++ run."""

    baseline: Literal["none", "group"] = key(
        "none",
        about="`group`: the mean reward of the responses to a prompt is subtracted from theirs, "
        "before advantages are whitened",
        source="Hu 2025",
    )

    @model_validator(mode="after")
    def _groups_have_several(self) -> ReinforceConfig:
        if self.baseline == "group" and self.responses_per_prompt == 1:
            raise ValueError(
                "baseline: group compares the responses to a prompt: set responses_per_prompt to 2 "
                "or more"
            )
        return self
