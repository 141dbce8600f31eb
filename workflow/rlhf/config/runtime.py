"""How runs are carried out. Nothing here changes a result, so nothing here makes one stale."""

from __future__ import annotations

from typing import Literal

from rlhf.config.base import Strict, key


class RuntimeConfig(Strict):
    """Threads, micro-batches, kernels, saving."""

    threads: int = key(
        2,
        ge=1,
        about="threads of a training process, recorded in its manifest; processes in tokenization",
    )
    server_threads: int = key(
        2, ge=1, about="threads of each model server; the two of a job run at the same time"
    )
    micro_batch_tokens: int = key(
        2048, ge=64, about="padded tokens in one forward and backward pass", unit="tokens"
    )
    deterministic: bool = key(
        False,
        about="train with kernels alone that give the same bytes every time, and end where an "
        "operation has none; slower on GPUs, where others are in use without it",
    )
    save_seconds: float = key(
        300.0,
        ge=0,
        about="seconds between saved states; more, if saving would take over 5 % of the time",
    )
    save_steps: int = key(0, ge=0, about="also save every N steps; 0: only by time")
    track_code: bool = key(True, about="re-run a stage when its code has changed")
    containers: Literal["none", "apptainer"] = key(
        "none", about="where stages run: in the current environment, or in images"
    )
