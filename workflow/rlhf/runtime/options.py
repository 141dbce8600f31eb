"""How a training run is carried out. No torch here: command lines import this."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

EngineKind = Literal["replicated", "fsdp", "zero1", "zero2", "zero3"]
Shard = Literal["all", "node"]
Offload = Literal["none", "optimizer", "all"]
AttentionKind = Literal["flash", "flex", "sdpa", "eager"]
AttentionChoice = Literal["auto", "flash", "flex", "sdpa", "eager"]
SAMPLER_SHARE = 0.3  # of a GPU's memory: what a vLLM server takes that shares it with ranks


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; nothing here changes its result.

    Attributes:
        name: name shown and used for TensorBoard, such as ``train_sft.chat``.
        state: folder of the run's saved states.
        identity: all that decides the result; states are found again only under the same.
        save_steps: save every so many steps; 0: by time alone.
        save_seconds: save after so many seconds.
        tensorboard: folder of the events, or None.
        performance: file of the figures of speed, or None.
        save_margin: least seconds before the end of an allocation that are kept for saving.
    """

    name: str
    state: Path
    identity: Any
    save_steps: int = 0
    save_seconds: float = 300.0
    tensorboard: Path | None = None
    save_margin: float = 60.0
    performance: Path | None = None


@dataclass(frozen=True)
class EngineOptions:
    """How training computes, and where weights, gradients and moments are kept.

    Beyond rounding it changes no result.

    Attributes:
        kind: ``replicated``: whole on every rank; ``fsdp``: FSDP2; ``zero1`` to ``zero3``:
            DeepSpeed's ZeRO by its stage.
        shard: over which ranks slices are spread: ``all``, or those of a ``node`` with replicas
            between nodes.
        offload: what is kept in the memory of the CPUs between passes.
        activation_checkpointing: compute activations again in the backward pass.
        attention: how attention is computed; ``auto``: on GPUs the first way that works, on CPUs
            as transformers has it.
    """

    kind: EngineKind = "replicated"
    shard: Shard = "all"
    offload: Offload = "none"
    activation_checkpointing: bool = False
    attention: AttentionChoice = "auto"
