"""One of two ranks of runs that are killed at a random moment and started again.

Each attempt is a fork of this process, which has imported all there is: that takes longer than any
of the runs. As under torchrun, the other rank is ended when one is gone.

KILL_SEED decides the moments.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import deepspeed  # noqa: F401
import torch
import torch.distributed as dist

from rlhf.algorithms.sft import SftObjective
from rlhf.data.mixture import Mixture
from rlhf.runtime.options import EngineKind, EngineOptions, RunOptions
from rlhf.training.engine import fsdp, zero  # noqa: F401
from rlhf.training.engine.open import open_engine
from rlhf.training.loop import train
from support.programs import supervised_ranks
from support.tiny_models import token_scorer

KINDS: tuple[EngineKind, ...] = ("replicated", "fsdp", "zero1", "zero2", "zero3")
RANK = int(os.environ.get("RANK", "0"))


def work(kind: EngineKind, folder: Path, state: Path) -> None:
    """Six updates, each saved; then the weights, from rank 0."""
    settings = supervised_ranks.config(epochs=2)
    rates = {"": settings.optimizer.learning_rate}
    engine = open_engine(token_scorer(0), rates, settings.optimizer, EngineOptions(kind))
    data = Mixture({"d": folder / "set"}, {}, "train")
    options = RunOptions("sft.x", state, {}, save_steps=1)
    train(engine, SftObjective(), data, settings, options, 40, dict)
    weights = {name: tensor.clone() for name, tensor in engine.weights()}
    if RANK == 0:
        torch.save(weights, state / "weights.pt")


@contextmanager
def attempt(kind: EngineKind, folder: Path, state: Path, name: str) -> Iterator[int]:
    """A fork of this rank that works; its process id."""
    process = os.fork()
    if process == 0:
        try:
            torch.set_num_threads(1)
            dist.init_process_group(
                "gloo", init_method=f"file://{folder}/{kind}-{name}", rank=RANK, world_size=2,
                timeout=timedelta(seconds=120),
            )  # fmt: skip
            work(kind, folder, state)
            dist.barrier()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    try:
        yield process
    finally:
        _, status = os.waitpid(process, 0)
        (folder / f"{kind}-{name}-{RANK}.status").write_text(str(status))


def main() -> None:
    """Each kind straight; killed and resumed."""
    folder, seed = Path(sys.argv[1]), os.environ["KILL_SEED"]
    for kind in KINDS:
        random_ = random.Random(f"{seed} {kind}")
        victim, share = random_.randrange(2), random_.uniform(0.05, 0.95)
        began = time.monotonic()
        with attempt(kind, folder, folder / kind / "straight", "straight"):
            pass
        seconds = share * (time.monotonic() - began)
        killed = folder / f"{kind}.killed"
        with attempt(kind, folder, folder / kind / "killed", "killed") as process:
            if victim == RANK:
                time.sleep(seconds)
                killed.touch()
            while not killed.exists():
                time.sleep(0.01)
            os.kill(process, signal.SIGKILL)
        with attempt(kind, folder, folder / kind / "killed", "resumed"):
            pass


if __name__ == "__main__":
    main()
