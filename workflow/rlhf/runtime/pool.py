"""Processes on this machine that share one kind of work; results come in the order of the items."""

from __future__ import annotations

import contextlib
import gc
import itertools
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from rlhf.errors import RlhfError
from rlhf.runtime.killed import Memory
from rlhf.runtime.processes import end_with_parent

AHEAD = 2  # items for each process that are given out before their results are asked for

Item = TypeVar("Item")
Result = TypeVar("Result")

_work: Callable[[Any], Any]


@contextlib.contextmanager
def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], processes: int
) -> Iterator[Iterator[Result]]:
    """Let processes work on items; they start at once, before the first result is asked for.

    Args:
        work: is pickled once for each process, and may keep what it needs for the next item.
        items: each is pickled; so is its result. They are taken as results are.
        processes: each keeps one core busy; fewer than two: this process does the work.

    Raises:
        RlhfError: a process was killed; or what ``work`` raises.
    """
    if processes < 2:
        yield map(work, items)
        return
    # Not forked: this process may have threads of Arrow or `tokenizers`, in the middle of a lock.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(processes, context, _begin, (work,))
    memory = Memory()
    remaining = iter(items)
    pending: deque[Future[Result]] = deque()

    def give(count: int) -> None:
        pending.extend(executor.submit(_do, one) for one in itertools.islice(remaining, count))

    def results() -> Iterator[Result]:
        while pending:
            result = pending.popleft().result()
            give(1)
            yield result

    try:
        give(AHEAD * processes)
        yield results()
    except BrokenProcessPool:
        raise RlhfError(
            f"One of {processes} processes that worked side by side was killed"
            f"{memory.explain(signal.SIGKILL)}.",
            hint="if memory ran out, ask for more, or for fewer threads",
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)


def _begin(work: Callable[[Any], Any]) -> None:
    global _work
    end_with_parent()
    gc.freeze()  # the libraries that came with the work stay: no need to look through them again
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # or each would start a thread for each core
    _work = work


def _do(item: Any) -> Any:
    return _work(item)
