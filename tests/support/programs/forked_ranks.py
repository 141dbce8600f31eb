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
    """All of them, one after the other."""
    folder = Path(sys.argv[1])
    gc.freeze()
    for ranks in many_ranks.KINDS:
        processes = fork_ranks(
            ranks, folder / f"{ranks}.meeting", partial(keep, folder), named=True
        )
        assert not any(wait_for(processes))
    killed_runs.run_all(folder, os.environ["KILL_SEED"])


if __name__ == "__main__":
    main()
