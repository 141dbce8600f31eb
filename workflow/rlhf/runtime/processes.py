"""Processes on this machine (Linux): who descends from whom, and how to tie a child's life."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)
_TIED = Path(__file__).with_name("tied.py")


def tied(command: Sequence[str]) -> list[str]:
    """A command line for ``command`` that gets SIGTERM when this process ends, however it ends.

    SIGTERM, not SIGKILL: a stage can still save, a server frees its shared memory. The kernel
    watches the *thread* that starts the process: call ``Popen`` in the main thread.

    By a command in front, not by a ``preexec_fn``: that one needs a real fork, and a process
    forked while another thread is within gRPC may crash.
    """
    own = (os.getpid(), int(signal.SIGTERM))
    return [sys.executable, "-I", "-S", str(_TIED), *map(str, own), *command]


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


def command_line(pid: int) -> list[str]:
    """The arguments that a process was started with; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def send(pid: int, number: int) -> None:
    """Send a signal, unless the process is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _parents() -> dict[int, int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # the command's name, in parentheses, may hold spaces and parentheses itself
                rest = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(rest[1])
    return parents
