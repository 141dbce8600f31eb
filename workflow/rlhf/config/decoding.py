"""What responses are drawn from, and what ends them besides EOS: in training and evaluation."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from rlhf.config.base import Strict, key


class DecodingConfig(Strict):
    """Which tokens can be drawn, and which texts end a response."""

    max_new_tokens: int = key(64, ge=1, about="longest response", unit="tokens")
    top_k: int = key(
        0, ge=0, about="only this many most probable tokens can be drawn; 0: all", unit="tokens"
    )
    top_p: float = key(
        1.0,
        gt=0,
        le=1,
        about="only the most probable tokens can be drawn that have this much probability together",
    )
    min_p: float = key(
        0.0,
        ge=0,
        lt=1,
        about="only tokens can be drawn with at least this share of the probability of the most "
        "probable one",
    )
    min_new_tokens: int = key(
        0, ge=0, about="before so many tokens, neither EOS nor a stop text ends it", unit="tokens"
    )
    stop: list[Annotated[str, Field(min_length=1)]] = key(
        [], about="texts that end a response, and are cut off, such as `Human:`"
    )

    @property
    def restricting(self) -> list[str]:
        """Keys that keep tokens from being drawn."""
        names = ("top_k", "top_p", "min_p", "min_new_tokens")
        fields = DecodingConfig.model_fields
        return [name for name in names if getattr(self, name) != fields[name].default]

    @model_validator(mode="after")
    def _shortest_is_not_longest(self) -> Self:
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens {self.min_new_tokens} is more than max_new_tokens "
                f"{self.max_new_tokens}"
            )
        return self
