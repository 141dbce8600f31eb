"""Ranks that are forks of one process, which has imported all there is.

Imports take longer than what small runs do. The process that forks must not have computed anything.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist


def fork_ranks(
    ranks: int, meeting: Path, work: Callable[[], None], named: bool = False
) -> list[int]:
    """Start so many ranks that do some work together; their process ids.

    Args:
        ranks: how many.
        meeting: a file that is not there yet, by which they find each other.
        work: what each of them does.
        named: whether a collective in which they differ is named; it is slow.
    """
    return [_fork(rank, ranks, meeting, work, named) for rank in range(ranks)]


def _fork(rank: int, ranks: int, meeting: Path, work: Callable[[], None], named: bool) -> int:
    process = os.fork()
    if process:
        return process
    try:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "GLOO_SOCKET_IFNAME": "lo"}
        os.environ.update({name: str(value) for name, value in names.items()})
        torch.set_num_threads(1)
        dist.set_debug_level(dist.DebugLevel.DETAIL if named else dist.DebugLevel.OFF)
        dist.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks,
            timeout=timedelta(seconds=600),
        )  # fmt: skip
        work()
        dist.barrier()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def wait_for(processes: Iterable[int]) -> list[int]:
    """Wait for processes to end; the exit code of each, below 0 for a signal."""
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
