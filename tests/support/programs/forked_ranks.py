"""Ranks that are forks of this process: with nothing to do, and killed.

    forked_ranks.py FOLDER

KILL_SEED decides who is killed, and when.
"""

from __future__ import annotations

import gc
import os
import sys
from functools import partial
from pathlib import Path

import deepspeed  # noqa: F401
import torch

from rlhf.training import distributed
from rlhf.training.engine import fsdp, zero  # noqa: F401
from support.forks import fork_ranks, wait_for
from support.programs import killed_runs, many_ranks


def keep(folder: Path) -> None:
    """This rank's part of what ``many_ranks`` does, in a file."""
    ranks, rank = distributed.world_size(), distributed.rank()
    torch.save(many_ranks.work(folder, folder / str(ranks)), folder / f"{ranks}-{rank}.pt")


def main() -> None:
    """Runs that are killed, if there is a seed for it; else those with nothing to do."""
    folder, seed = Path(sys.argv[1]), os.environ.get("KILL_SEED")
    gc.freeze()
    if seed is not None:
        killed_runs.run_all(folder, seed)
        return
    for ranks in many_ranks.KINDS:
        meeting = folder / f"{ranks}.meeting"
        assert not any(wait_for(fork_ranks(ranks, meeting, partial(keep, folder), named=True)))


if __name__ == "__main__":
    main()
