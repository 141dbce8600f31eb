"""Datasets, their views, and what a run takes from them."""

from __future__ import annotations

from typing import Any, Literal

from rlhf.config.base import Strict, key


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
        0.1, gt=0, lt=1, about="share of the groups (trees, prompts) held out, chosen by hash"
    )
    split_salt: str = key("", about="changes which groups are held out")


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
