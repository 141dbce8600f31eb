"""One rank of four, two to a node, whose slices are spread within a node."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rlhf.runtime.options import EngineOptions
from rlhf.training import distributed
from rlhf.training.engine.open import open_engine
from support.programs.sharded_ranks import SETTINGS, case, update, whole
from support.tiny_models import rank_main

CASE = "ppo llama"


def work(folder: Path, state: Path) -> dict[str, Any]:
    """Two updates, between which the state is saved and taken up by an engine of its own."""
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    options = EngineOptions("fsdp" if distributed.world_size() > 1 else "replicated", "node")
    root, loss, rates = case(CASE)
    engine = open_engine(root, rates, SETTINGS, options)
    figures = [update(engine, loss, 0)]
    state.mkdir(exist_ok=True)
    engine.save(state)
    distributed.wait()
    held = sum(part.numel() for _, part in engine.parts())
    again, loss, rates = case(CASE)
    engine = open_engine(again, rates, SETTINGS, options)
    engine.load(state)
    figures.append(update(engine, loss, 1))
    return {"figures": figures, "held": held, "weights": whole(engine)}


if __name__ == "__main__":
    rank_main(work)
