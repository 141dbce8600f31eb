"""One rank of an update by each kind of engine, activations kept or computed again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rlhf.config.training import OptimizerConfig
from rlhf.runtime.options import EngineOptions
from rlhf.training import distributed
from rlhf.training.engine.open import open_engine
from support.tiny_models import rank_main, token_scorer, token_sequences

KINDS = ("replicated", "fsdp")


def gradients(kind: str, precision: str, again: bool) -> dict[str, torch.Tensor]:
    """This rank's part of every gradient after two micro-batches, before the update."""
    root = token_scorer(0)
    root.compute_in(precision)
    options = EngineOptions(kind, activation_checkpointing=again)
    engine = open_engine(root, {"": 1e-3}, OptimizerConfig(), options)
    for step in range(2):
        rows = token_sequences([9, 7 + distributed.rank()], seed=step)
        logprobs, _ = engine(rows, [torch.arange(1, len(row)) for row in rows])
        engine.backward(-logprobs.sum() / 10, last=step == 1)
    found = {}
    for name, parameter in root.named_parameters():
        gradient = parameter.grad
        assert gradient is not None, name
        found[name] = gradient.to_local() if hasattr(gradient, "to_local") else gradient
    return found


def work(_folder: Path, _state: Path) -> dict[str, Any]:
    return {
        f"{kind} {precision}": [gradients(kind, precision, again) for again in (False, True)]
        for kind in KINDS
        for precision in ("float32", "bfloat16")
    }


if __name__ == "__main__":
    rank_main(work)
