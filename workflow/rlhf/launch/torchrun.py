"""torchrun that passes signals on to its ranks, and does not end on them.

torchrun itself would give its ranks 30 s from the first signal on; the ranks alone know how long
saving takes. It ends after them. Ranks are in sessions of their own, so a signal has to be passed
to each; from here, because a container's runtime passes signals no further than to this process.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from pathlib import Path

from rlhf.launch.worker import EXIT_FOLDER, MODULE, leave_code
from rlhf.runtime.processes import children, command_line, send, start_time

PASSED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
LOOK_SECONDS = 0.1
TOGETHER_SECONDS = 10.0


def main() -> None:
    """``python -m rlhf.launch.torchrun [torchrun's arguments…]``."""
    # Before torch starts threads: a blocked signal reaches the one thread that waits for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED)
    threading.Thread(target=_pass_on, name="signals", daemon=True).start()
    deaths = _Deaths()
    deaths.start()
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        runpy.run_module("torch.distributed.run", run_name="__main__", alter_sys=True)
    except ChildFailedError as error:  # a rank has said why; torchrun's own traceback says nothing
        for rank, failure in error.failures.items():
            if failure.exitcode < 0 and deaths.by_itself(failure.pid, -failure.exitcode):
                # so it could leave no code itself
                leave_code(Path(os.environ[EXIT_FOLDER]), str(rank), 128 - failure.exitcode)
        sys.exit(str(error))


class _Deaths(threading.Thread):
    """Watches when ranks end: those that torchrun ends because another one failed end after it."""

    def __init__(self) -> None:
        super().__init__(name="deaths", daemon=True)
        self._ranks: set[int] = set()
        self._when: dict[int, float] = {}

    def run(self) -> None:
        while True:
            self._ranks.update(_ranks())  # seldom: all processes of the machine are looked at
            for _ in range(10):
                time.sleep(LOOK_SECONDS)
                for pid in self._ranks - self._when.keys():
                    if start_time(pid) is None:
                        self._when[pid] = time.monotonic()

    def by_itself(self, pid: int, number: int) -> bool:
        """Whether a signal that ended a rank came from elsewhere than from torchrun.

        torchrun sends SIGTERM, and SIGKILL half a minute later.
        """
        now = time.monotonic()
        first = min(self._when.values(), default=now)
        late = self._when.get(pid, now) - first > TOGETHER_SECONDS
        return number != signal.SIGTERM and not (number == signal.SIGKILL and late)


def _ranks() -> list[int]:
    return [pid for pid in children(os.getpid()) if MODULE in command_line(pid)]


def _pass_on() -> None:
    while True:
        number = signal.sigwait(PASSED)
        while not (ranks := _ranks()):
            time.sleep(LOOK_SECONDS)  # they are being started
        for pid in ranks:
            send(pid, number)


if __name__ == "__main__":
    main()
