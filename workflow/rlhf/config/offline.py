"""What the runs share that learn from a dataset alone."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from rlhf.config.adapter import ADAPTER, AdapterConfig, refuse_frozen_layers
from rlhf.config.base import NAME_PATTERN, Strict, key
from rlhf.config.mixture import DuplicatesConfig, Shares
from rlhf.config.training import (
    EMA,
    PRECISION,
    SEEDS,
    EmaConfig,
    OptimizerConfig,
    Precision,
    check_seeds,
)


class StartConfig(Strict):
    """What SFT and reward models start from."""

    model: str | None = key(
        None, about="name of the base model that it starts from", pattern=NAME_PATTERN
    )
    sft: str | None = key(
        None, about="or: name of the SFT run that it starts from", pattern=NAME_PATTERN
    )

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if (self.model is None) == (self.sft is None):
            raise ValueError("give exactly one of model, sft: what it starts from")
        return self


class ResidualDropoutConfig(Strict):
    """Dropout of what attention and feed-forward parts add to the residual stream."""

    rate: float = key(0.0, ge=0, lt=1, about="share that is dropped while training; 0: no dropout")
    ramp: Literal["none", "linear"] = key(
        "none",
        about="`linear`: from 0 in the lowest layer to `rate` in the highest",
        source="LIMA, Zhou et al. 2023",
    )


class SelectionConfig(Strict):
    """Which weights are kept of those that were validated, and when training ends early."""

    keep: Literal["last", "best"] = key(
        "last", about="weights that are published: the last, or the best of the validations"
    )
    measure: str = key(
        "validation_loss",
        pattern=r"^validation_.",
        about="validation figure that says which are better: a loss or cross-entropy by falling, "
        "any other by rising; of one dataset alone as `validation_loss/<dataset>`",
    )
    patience: int | None = key(
        None,
        ge=1,
        about="training ends after so many validations in a row without a gain; absent: never",
    )
    minimum_gain: float = key(0.0, ge=0, about="least change of the figure that counts as a gain")

    @property
    def looks(self) -> bool:
        """Whether validations decide anything."""
        return self.keep == "best" or self.patience is not None

    @model_validator(mode="after")
    def _says_something(self) -> SelectionConfig:
        if self.minimum_gain and self.patience is None:
            raise ValueError("minimum_gain says when patience ends, and there is no patience")
        if self.measure != "validation_loss" and not self.looks:
            raise ValueError("measure chooses nothing: set keep: best, or patience")
        return self


class OfflineConfig(Strict):
    """A run that learns from a dataset alone."""

    data: Shares = key(about="dataset name → what is taken from it", min_length=1)
    duplicates: DuplicatesConfig = key(
        DuplicatesConfig(), about="repeated rows, within the datasets and between them"
    )
    epochs: int = key(1, ge=1, about="passes over the data")
    global_batch_size: int = key(16, ge=1, about="rows in one update", unit="rows")
    length_grouping: int = key(
        0,
        ge=0,
        about="batches of similar lengths: the rows of this many batches are sorted by length, "
        "then all batches are shuffled; 0: batches of any lengths",
        unit="batches",
    )
    optimizer: OptimizerConfig = key(OptimizerConfig(), about="AdamW and its schedule")
    adapter: AdapterConfig | None = ADAPTER
    freeze_layers: int = key(
        0, ge=0, about="decoder layers, from the bottom, that are not trained (nor the embeddings)"
    )
    precision: Precision = PRECISION
    residual_dropout: ResidualDropoutConfig = key(
        ResidualDropoutConfig(), about="dropout in front of the residual stream, while training"
    )
    ema: EmaConfig | None = EMA
    evaluations: int = key(2, ge=1, about="number of validations during a run")
    selection: SelectionConfig = key(
        SelectionConfig(), about="which weights are published, and when training ends early"
    )
    seed: int = key(0, ge=0, about="seed of the order of the data and of new weights")
    seeds: list[int] | None = SEEDS

    @property
    def draws_in_passes(self) -> bool:
        """Whether passes that are learned from draw random numbers, each from its own seed."""
        return self.residual_dropout.rate > 0

    @model_validator(mode="after")
    def _freezes_once(self) -> Self:
        refuse_frozen_layers(self.adapter, self.freeze_layers)
        return self

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        check_seeds(self, self.seeds)
        return self
