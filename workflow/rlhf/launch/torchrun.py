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

from rlhf.launch.worker import MODULE
from rlhf.runtime.processes import children, command_line, send

PASSED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
LOOK_SECONDS = 0.1


def main() -> None:
    """``python -m rlhf.launch.torchrun [torchrun's arguments…]``."""
    # Before torch starts threads: a blocked signal reaches the one thread that waits for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED)
    threading.Thread(target=_pass_on, name="signals", daemon=True).start()
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        runpy.run_module("torch.distributed.run", run_name="__main__", alter_sys=True)
    except ChildFailedError as error:  # a rank has said why; torchrun's own traceback says nothing
        sys.exit(str(error))


def _pass_on() -> None:
    while True:
        number = signal.sigwait(PASSED)
        while not (ranks := [pid for pid in children(os.getpid()) if MODULE in command_line(pid)]):
            time.sleep(LOOK_SECONDS)  # they are being started
        for pid in ranks:
            send(pid, number)


if __name__ == "__main__":
    main()
