"""What the runs share that learn from a dataset alone."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from rlhf.config.adapter import ADAPTER, AdapterConfig, refuse_frozen_layers
from rlhf.config.base import NAME_PATTERN, Strict, key
from rlhf.config.mixture import DuplicatesConfig, Shares
from rlhf.config.training import PRECISION, SEEDS, OptimizerConfig, Precision, check_seeds


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
    evaluations: int = key(2, ge=1, about="number of validations during a run")
    seed: int = key(0, ge=0, about="seed of the order of the data and of new weights")
    seeds: list[int] | None = SEEDS

    @model_validator(mode="after")
    def _freezes_once(self) -> Self:
        refuse_frozen_layers(self.adapter, self.freeze_layers)
        return self

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        check_seeds(self, self.seeds)
        return self
