"""Processes on this machine (Linux): who descends from whom, and how to tie a child's life."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rlhf.runtime.tied import PR_SET_PDEATHSIG

_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)
_TIED = Path(__file__).with_name("tied.py")


def tied(command: Sequence[str], number: int = signal.SIGTERM) -> list[str]:
    """A command line for ``command`` that gets a signal when this process ends, however it ends.

    SIGTERM, not SIGKILL: a stage can still save, a server frees its shared memory. The kernel
    watches the *thread* that starts the process: call ``Popen`` in the main thread.

    By a command in front, not by a ``preexec_fn``: that one needs a real fork, and a process
    forked while another thread is within gRPC may crash.
    """
    own = (os.getpid(), int(number))
    return [sys.executable, "-I", "-S", str(_TIED), *map(str, own), *command]


def end_with_parent() -> None:
    """From now on, this process gets SIGTERM when its parent ends."""
    _LIBC.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def adopt_orphans() -> None:
    """From now on, descendants whose parent ended become children of this process."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children(pid: int) -> list[int]:
    """Process ids of the direct children of ``pid``."""
    return [one for one, parent in _parents().items() if parent == pid]


def descendants(pid: int) -> list[int]:
    """Process ids of all that descend from ``pid``, parents first."""
    parents = _parents()
    found = [pid]
    for ancestor in found:
        found += [one for one, parent in parents.items() if parent == ancestor]
    return found[1:]


def members(group: int) -> list[int]:
    """Process ids of a process group, whose first process may have ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if int(_stat(int(entry.name))[2]) == group:
                    found.append(int(entry.name))
    return found


def command_line(pid: int) -> list[str]:
    """The arguments that a process was started with; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks after boot; None when it has ended.

    A process id alone is not enough to know a process again: the kernel gives it out anew.
    """
    try:
        fields = _stat(pid)
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])  # an unreaped process has ended


def send(pid: int, number: int) -> None:
    """Send a signal, unless the process is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _parents() -> dict[int, int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int(_stat(int(entry.name))[1])
    return parents


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third (the state) on."""
    # the command's name, in parentheses, may hold spaces and parentheses itself
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
