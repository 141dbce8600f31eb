"""The rows that runs need: no section of the configuration, but drawn from several."""

from __future__ import annotations

from rlhf.config.base import Strict, key


class RowsNeeded(Strict):
    """What one run needs; a set is named ``view/model``."""

    data: list[str] = key(about="names of the datasets")
    train: str | None = key(None, about="set that the run trains on")
    scores: str | None = key(None, about="key for which its replies need scores of their own")
    demonstrations: str | None = key(None, about="set with held-out rows to calibrate on")
    calibration_samples: int = key(0, ge=0, about="demonstrations that the calibration takes")
    prompts: str | None = key(None, about="set with held-out rows that responses are sampled for")


class RowsSlice(Strict):
    """What ``check_rows`` gets."""

    runs: dict[str, RowsNeeded] = key(about="the run and those that build on it, by name")
