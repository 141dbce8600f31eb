"""``python tied.py PARENT SIGNAL COMMAND…``: becomes COMMAND, which gets SIGNAL when PARENT ends.

See ``rlhf.runtime.processes.tied``. Standard library only, so that it starts at once.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Become the command, or end with 1 where the parent has ended already."""
    parent, number, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != int(parent):  # it ended before the kernel was asked to watch it
        sys.exit(1)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
