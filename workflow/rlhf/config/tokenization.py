"""From rows to tokens: the views of data, and how long a sample may be in each."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from rlhf.config.base import Strict, key, refuse_old


class ReplyTagsConfig(Strict):
    """Open-Assistant's tags before replies: language, ratings, length, context."""

    dropout: float = key(
        0.5, ge=0, le=1, about="probability that a property is left out", source="Open-Assistant"
    )
    length: bool = key(
        False,
        about="also write the reply's length, in steps of five words",
        source="Open-Assistant",
    )


class SamplesMixingConfig(Strict):
    """Several short conversations in one training row."""

    shorter_than: int = key(
        256,
        ge=2,
        about="only conversations shorter than this",
        unit="tokens",
        source="Open-Assistant",
    )
    probability: float = key(
        0.4, gt=0, le=1, about="share of these that are joined", source="Open-Assistant"
    )


class ViewConfig(Strict):
    """How rows become tokens in one view."""

    max_length: int = key(512, ge=8, about="longest sequence", unit="tokens")
    overlong: Literal["drop", "truncate", "error"] = key(
        "truncate",
        about="what happens to a longer one: it is dropped, the oldest turns of its history are "
        "cut, or it is an error; counted in the manifest",
    )
    min_prefix: int | None = key(
        None,
        ge=1,
        about="also cut the beginning of the last question, down to this; absent: a row whose last "
        "question does not fit is dropped, because half a question has another answer",
        unit="tokens",
    )
    system_prefix: str | None = key(
        None, about="a system message before every dialogue; give the same to all views"
    )

    @model_validator(mode="after")
    def _prefix_needs_truncation(self) -> ViewConfig:
        if self.min_prefix is not None and self.overlong != "truncate":
            raise ValueError(
                f"min_prefix says how questions are cut, but overlong is {self.overlong!r}; "
                "set overlong to truncate, or leave min_prefix out"
            )
        return self


class ReplyViewConfig(ViewConfig):
    """How rows with replies become tokens."""

    reply_tags: ReplyTagsConfig | None = key(
        None, about="put what is known about a reply in front of it; absent: no tags"
    )
    seed: int = key(0, ge=0, about="seed of the random choices for each row: tags, offsets")


class ConversationViewConfig(ReplyViewConfig):
    """How demonstrations become tokens."""

    random_offset: float = key(
        0.0,
        ge=0,
        le=1,
        about="probability that a dialogue which is cut begins at a random turn instead of at the "
        "earliest one that fits; Open-Assistant: 0.8",
    )

    samples_mixing: SamplesMixingConfig | None = key(
        None,
        about="join short training conversations of a dataset to rows of up to `max_length`, each "
        "of which sees those before it; absent: a row is one conversation",
    )

    @model_validator(mode="after")
    def _offset_needs_truncation(self) -> ConversationViewConfig:
        if self.random_offset and self.overlong != "truncate":
            raise ValueError(
                f"random_offset says how dialogues are cut, but overlong is {self.overlong!r}; "
                "set overlong to truncate, or leave random_offset out"
            )
        return self


class PreferenceViewConfig(ReplyViewConfig):
    """How ranked replies become tokens."""

    max_replies: int = key(
        5, ge=2, about="replies kept in a row, best first", source="Open-Assistant"
    )


class TokenizeSlice(ConversationViewConfig, PreferenceViewConfig):
    """What ``tokenize`` gets: one view, and which it is.

    A key that the view does not have keeps its default.
    """

    view: Literal["conversation", "preference", "feedback", "prompt"] = key(about="the view")


class TokenizationConfig(Strict):
    """The views of data."""

    conversation: ConversationViewConfig = key(ConversationViewConfig(), about="demonstrations")
    preference: PreferenceViewConfig = key(PreferenceViewConfig(), about="ranked replies")
    feedback: ReplyViewConfig = key(
        ReplyViewConfig(), about="single replies that are good or bad, for KTO"
    )
    prompt: ViewConfig = key(
        ViewConfig(max_length=256, overlong="drop"), about="prompts for PPO and evaluation"
    )

    @model_validator(mode="before")
    @classmethod
    def _views_of_old(cls, values: Any) -> Any:
        return refuse_old(values, {"sft": "conversation"})
