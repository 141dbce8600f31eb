"""How runs are carried out. Nothing here changes a result, so nothing here makes one stale."""

from __future__ import annotations

from typing import Literal

from rlhf.config.base import Strict, key


class RuntimeConfig(Strict):
    """Threads, micro-batches, saving."""

    threads: int = key(
        2,
        ge=1,
        about="threads of a training process, recorded in its manifest; processes that tokenize",
    )
    server_threads: int = key(
        2, ge=1, about="threads of each model server; the two of a job work at the same time"
    )
    micro_batch_tokens: int = key(
        2048, ge=64, about="padded tokens in one forward and backward pass", unit="tokens"
    )
    save_seconds: float = key(
        300.0,
        ge=0,
        about="seconds between two saved states; more, if saving took over 5 % of the time",
    )
    save_steps: int = key(0, ge=0, about="also save every so many steps; 0: by time alone")
    track_code: bool = key(True, about="re-run a stage when the code that it runs has changed")
    containers: Literal["none", "apptainer"] = key(
        "none", about="where stages run: in the caller's environment, or in images"
    )
