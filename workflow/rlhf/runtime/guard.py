"""``python guard.py COMMAND…``: runs COMMAND, passes signals on to it, ends with its exit code.

For a container's runtime, behind ``tied.py``. The runtime changes its credentials, and with them
the kernel forgets that it was to be told of the launcher's end; this process is told instead.
Standard library only, so that it starts at once.
"""

import os
import signal
import subprocess
import sys

PASSED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    """Run the command; 128 + n when signal n ended it."""
    early: list[int] = []
    for number in PASSED:
        signal.signal(number, lambda number, _: early.append(number))
    child = subprocess.Popen(sys.argv[1:])
    for number in PASSED:
        signal.signal(number, lambda number, _: child.send_signal(number))
    for one in early:
        child.send_signal(one)
    status = child.wait()
    os._exit(128 - status if status < 0 else status)


if __name__ == "__main__":
    main()
