"""What responses are drawn from and what ends them, from a run's configuration."""

from __future__ import annotations

from typing import Any

from rlhf.config.decoding import DecodingConfig
from rlhf.models.decoding import Decoding, StopTexts


def decoding_of(config: DecodingConfig, tokenizer: Any) -> Decoding:
    """The configured decoding.

    Args:
        config: which tokens can be drawn, and stop texts.
        tokenizer: of the model that is sampled from.
    """
    return Decoding(
        config.top_k,
        config.top_p,
        config.min_p,
        config.min_new_tokens,
        StopTexts(tokenizer, config.stop) if config.stop else None,
    )
