"""The model stores that Triton serves."""

from __future__ import annotations

from typing import Literal

from rlhf.config.base import Strict, key


class StoreConfig(Strict):
    """The Triton model stores."""

    max_batch_size: int = key(
        64, ge=1, about="maximum of requests that Triton joins into one batch"
    )
    max_batch_tokens: int = key(8192, ge=64, about="padded tokens in one forward pass")
    dtype: Literal["auto", "float32", "bfloat16"] = key(
        "auto",
        about="type of the served weights and of the computation; `auto`: bfloat16 on GPUs that "
        "have it, float32 elsewhere",
    )
    tolerance: float | None = key(
        None,
        gt=0,
        about="largest difference that the parity check accepts, in a log probability or raw "
        "score; absent: 0.001 in float32, 0.2 in bfloat16",
    )


class StoreSlice(StoreConfig):
    """What ``export_store`` gets: the section, what is served, and how long rows are."""

    kind: Literal["reward", "reference"] = key(about="what is served")
    longest: int = key(ge=1, about="tokens of the longest row that is scored", unit="tokens")
