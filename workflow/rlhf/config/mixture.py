"""What a run takes from its datasets, and which repeated rows it leaves out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, model_validator

from rlhf.config.base import Strict, is_given, key


class Share(Strict):
    """What a run takes from one dataset."""

    fraction: float = key(
        1.0, gt=0, le=1, about="share of the training rows, drawn again in every epoch"
    )
    size: int | None = key(
        None,
        ge=1,
        about="this many training rows instead of a fraction, drawn again in every epoch",
        unit="rows",
        source="Open-Assistant",
    )
    weight: float | None = key(
        None,
        gt=0,
        about="an epoch's rows are divided by weight; a dataset too small for its part is repeated",
    )
    max_validation: int | None = key(
        None,
        ge=1,
        about="maximum of held-out rows used, chosen by hash",
        unit="rows",
        source="Open-Assistant's `max_val_set`",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Share:
        if self.size is not None and is_given(self, "fraction"):
            raise ValueError("give `fraction` or `size`, not both")
        return self


def _all_weigh(shares: dict[str, Share]) -> dict[str, Share]:
    weighed = [name for name, share in shares.items() if share.weight is not None]
    if weighed and len(weighed) < len(shares):
        (without, *_) = (name for name in shares if name not in weighed)
        raise ValueError(f"{weighed[0]} has a weight and {without} has none: weigh all or none")
    return shares


Shares = Annotated[dict[str, Share], AfterValidator(_all_weigh)]


class DuplicatesConfig(Strict):
    """Training rows that say what another one says, or what is held out."""

    remove: Literal["none", "exact", "near"] = key(
        "none",
        about="`exact`: rows with the same text, ignoring case and white space; `near`: also those "
        "whose estimated similarity reaches the threshold",
    )
    threshold: float = key(
        0.8, gt=0, le=1, about="minimum Jaccard similarity of the word sequences of two rows"
    )
    words: int = key(5, ge=1, about="length of the word sequences", unit="words")


class DuplicatesSlice(DuplicatesConfig):
    """What ``find_duplicates`` gets: a run's part about duplicates, and the view it trains on."""

    view: Literal["conversation", "preference", "feedback", "prompt"] = key(about="the view")
