"""Reward models."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from rlhf.config.base import Strict, key
from rlhf.config.offline import OfflineConfig, StartConfig


class RewardLossConfig(Strict):
    """What is minimized."""

    kind: Literal["ranking", "classification", "tokenwise", "regression"] = key(
        "ranking",
        about="`ranking`: of a row's pairs, then of rows; `classification`: of all pairs alike; "
        "`tokenwise`: of the tokens of each pair too, from where its replies part; `regression`: "
        "squared distance to the replies' own scores",
        source="Ouyang et al. 2022; Open-Assistant; DeepSpeed-Chat; Wang et al. 2023",
    )
    margin: float = key(
        0.0,
        ge=0,
        about="weight of the difference between the own scores of a pair's replies, by which the "
        "better one has to be ahead; 0: rows need no scores",
        source="Touvron et al. 2023",
    )
    label_smoothing: float = key(
        0.0, ge=0, lt=0.5, about="share of the preferences that are taken to be wrong"
    )
    centring: float = key(
        0.0, ge=0, about="weight of (s⁺ + s⁻)² of each pair", source="Eisenstein et al. 2023"
    )

    @property
    def scores_for(self) -> str | None:
        """The key for which replies need scores of their own; None: they need none."""
        if self.kind == "regression":
            return "loss.kind: regression"
        return "loss.margin" if self.margin else None

    @model_validator(mode="after")
    def _pairs_alone(self) -> Self:
        if self.kind == "regression":
            for name in ("margin", "label_smoothing", "centring"):
                if getattr(self, name):
                    raise ValueError(f"{name} is of pairs, which kind: regression does not look at")
        return self


class RewardConfig(OfflineConfig, StartConfig):
    """One reward model."""

    pooling: Literal["last", "mean"] = key(
        "last",
        about="what the score is read from: the hidden state of the `last` token, or the `mean` of "
        "those of all tokens, the conversation's and the reply's",
        source="Open-Assistant",
    )
    train: Literal["all", "head"] = key(
        "all", about="which weights are trained: `all`, or those of the score's `head` alone"
    )
    loss: RewardLossConfig = key(RewardLossConfig(), about="what is minimized")
    score_l2: float = key(
        0.001, ge=0, about="weight of ½(s⁺² + s⁻²) in the loss", source="Open-Assistant"
    )
    calibration_samples: int = key(
        256, ge=2, about="SFT demonstrations whose scores are normalized to mean 0 and std 1"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.pooling == "mean" and self.loss.kind == "tokenwise":
            raise ValueError(
                "pooling: mean gives one score for a whole reply, and loss.kind: tokenwise needs "
                "one at each token; write pooling: last"
            )
        if self.train == "head" and (self.adapter or self.freeze_layers):
            other = "adapter" if self.adapter else "freeze_layers"
            raise ValueError(
                f"train: head trains nothing but the head, so {other} says nothing; leave it out"
            )
        return self
