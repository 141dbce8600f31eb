"""Runs of two ranks by every kind of engine that are killed at a random moment and run again."""

from __future__ import annotations

import os
import random
import signal
import time
from functools import partial
from pathlib import Path

import torch

from rlhf.algorithms.sft import SftObjective
from rlhf.data.mixture import Mixture
from rlhf.runtime.options import EngineKind, EngineOptions, RunOptions
from rlhf.training import distributed
from rlhf.training.engine.open import open_engine
from rlhf.training.loop import train
from support.forks import fork_ranks, wait_for
from support.programs import supervised_ranks
from support.tiny_models import token_scorer

KINDS: tuple[EngineKind, ...] = ("replicated", "fsdp", "zero1", "zero2", "zero3")


def work(kind: EngineKind, folder: Path, state: Path) -> None:
    """Six updates, each saved; then the weights, from rank 0."""
    settings = supervised_ranks.config(epochs=2)
    rates = {"": settings.optimizer.learning_rate}
    engine = open_engine(token_scorer(0), rates, settings.optimizer, EngineOptions(kind))
    data = Mixture({"d": folder / "set"}, {}, "train")
    options = RunOptions("sft.x", state, {}, save_steps=1)
    train(engine, SftObjective(), data, settings, options, 40, dict)
    weights = {name: tensor.clone() for name, tensor in engine.weights()}
    if distributed.rank() == 0:
        torch.save(weights, state / "weights.pt")


def run_all(folder: Path, seed: str) -> None:
    """Each kind without a disturbance; killed, and run again.

    Args:
        folder: gets ``KIND/straight`` and ``KIND/killed``.
        seed: decides who is killed, and when.
    """
    for kind in KINDS:
        random_ = random.Random(f"{seed} {kind}")
        straight, killed = (partial(work, kind, folder, folder / kind / name)
                            for name in ("straight", "killed"))  # fmt: skip
        began = time.monotonic()
        assert wait_for(fork_ranks(2, folder / f"{kind}.1", straight)) == [0, 0]
        seconds = random_.uniform(0.05, 0.95) * (time.monotonic() - began)
        processes = fork_ranks(2, folder / f"{kind}.2", killed)
        victim = processes.pop(random_.randrange(2))
        time.sleep(seconds)
        os.kill(victim, signal.SIGKILL)
        for process in processes:  # as torchrun does
            os.kill(process, signal.SIGKILL)
        wait_for([victim, *processes])
        assert wait_for(fork_ranks(2, folder / f"{kind}.3", killed)) == [0, 0]
