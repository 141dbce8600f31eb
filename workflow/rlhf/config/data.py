"""Datasets, their views, and what a run takes from them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, model_validator

from rlhf.config.base import Strict, key


class StageSplit(Strict):
    """Parts of the training rows: each stage draws from its own, and no tree is in two."""

    sft: float = key(ge=0, about="part that demonstrations come from")
    reward: float = key(ge=0, about="part that preferences come from")
    ppo: float = key(ge=0, about="part that prompts come from")

    @model_validator(mode="after")
    def _something_is_there(self) -> StageSplit:
        if not self.sft + self.reward + self.ppo:
            raise ValueError("one of sft, reward and ppo has to be more than 0")
        return self


class DatasetConfig(Strict):
    """One dataset."""

    path: str = key(about="file, relative to the repository's root")
    format: str = key(about="how the file is laid out: `oasst` (message trees) or `messages`")
    options: dict[str, Any] = key(
        {},
        about="options of the format: `top_k` (follow the best replies only), `lang`, "
        "`invalid` (`error`, or `drop` to count faulty rows and go on)",
    )
    validation_fraction: float = key(
        0.1, ge=0, lt=1, about="share of the groups (trees, prompts) held out, chosen by hash"
    )
    split_salt: str = key(
        "", about="changes which groups are held out, and in which stage's part the others are"
    )
    stage_split: StageSplit | None = key(
        None,
        about="parts that the stages share the training groups in, chosen by hash, such as 2, 4 "
        "and 4; absent: every stage draws from all",
        source="DeepSpeed-Chat's `data_split`",
    )


class ViewConfig(Strict):
    """How rows become tokens in one view."""

    max_length: int = key(512, ge=8, about="longest sequence", unit="tokens")
    overlong: Literal["drop", "truncate", "error"] = key(
        "truncate",
        about="what happens to a longer one: it is dropped, its history is cut from the left "
        "(whole turns first), or it is an error; counted in the manifest",
    )


class PreferenceViewConfig(ViewConfig):
    """How ranked replies become tokens."""

    max_replies: int = key(
        5, ge=2, about="replies of a row that are kept, best first", source="Open-Assistant"
    )


class TokenizationConfig(Strict):
    """The three views."""

    sft: ViewConfig = key(ViewConfig(), about="demonstrations")
    preference: PreferenceViewConfig = key(PreferenceViewConfig(), about="ranked replies")
    prompt: ViewConfig = key(
        ViewConfig(max_length=256, overlong="drop"), about="prompts for PPO and evaluation"
    )


class Share(Strict):
    """What a run takes from one dataset."""

    fraction: float = key(
        1.0, gt=0, le=1, about="share of the training rows, drawn anew in every epoch"
    )
    size: int | None = key(
        None,
        ge=1,
        about="this many training rows instead of a fraction, drawn anew in every epoch",
        unit="rows",
        source="Open-Assistant",
    )
    weight: float | None = key(
        None,
        gt=0,
        about="the epoch's rows are shared out by weight; a set too small for its part is repeated",
    )
    max_validation: int | None = key(
        None,
        ge=1,
        about="held-out rows used at most, chosen by hash",
        unit="rows",
        source="Open-Assistant's `max_val_set`",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Share:
        if self.size is not None and "fraction" in self.model_fields_set:
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
        about="`exact`: rows of the same text, but for case and white space; `near`: those too "
        "whose estimated similarity reaches the threshold",
    )
    threshold: float = key(
        0.8, gt=0, le=1, about="least Jaccard similarity of the word sequences of two rows"
    )
    words: int = key(5, ge=1, about="length of the word sequences", unit="words")
