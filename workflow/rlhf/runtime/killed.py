"""What to say of a process that a signal ended: which one, and whether memory ran out."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_GB = 1e9
_NO_LIMIT = 1 << 60  # cgroup v1 writes a number near 2^63 where there is none


def ended_by(status: int) -> int | None:
    """The signal that ended a process, by its exit status; None when none did.

    Args:
        status: negative, as ``subprocess`` has it, or 128 + n, as shells have it.
    """
    number = -status if status < 0 else status - 128
    return number if 0 < number < signal.NSIG else None


def signal_name(number: int) -> str:
    """A signal's name, such as ``SIGKILL``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Memory:
    """This machine's memory, looked at from now on.

    Args:
        proc: where the kernel tells of itself.
        cgroups: where control groups are mounted.
        environment: SLURM's variables are read from it.
    """

    def __init__(
        self,
        proc: Path = Path("/proc"),
        cgroups: Path = _ROOT,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._proc, self._cgroups, self._environment = proc, cgroups, environment
        self._before = self._kills()

    def explain(self, number: int) -> str:
        """Why a process may have got a signal: of SIGKILL, what is known of memory; else nothing.

        Returns:
            Text to follow the signal's name, or ``""``.
        """
        if number != signal.SIGKILL:
            return ""
        return "; ".join([": out of memory?" + self._verdict(), *self._figures()])

    def _verdict(self) -> str:
        now = self._kills()
        if now is None or self._before is None:
            return ""
        if now > self._before:
            return f" The kernel has killed {now - self._before} for memory meanwhile"
        return " The kernel has killed nothing for memory meanwhile: somebody else did, it seems"

    def _kills(self) -> int | None:
        """Processes that the kernel has killed for memory, here or in this control group."""
        counts = [_fields(self._proc / "vmstat").get("oom_kill")]
        for folder in self._groups():
            for file in ("memory.events", "memory.oom_control"):
                counts.append(_fields(folder / file).get("oom_kill"))
        known = [count for count in counts if count is not None]
        return max(known, default=None)

    def _figures(self) -> Iterator[str]:
        for folder in self._groups():
            limit = _first(folder, "memory.max", "memory.limit_in_bytes")
            peak = _first(folder, "memory.peak", "memory.max_usage_in_bytes")
            if limit is not None and limit < _NO_LIMIT:
                most = "" if peak is None else f"{peak / _GB:.1f} GB used at most, "
                yield f"{most}{limit / _GB:.1f} GB allowed ({folder})"
                break
        asked = self._environment.get("SLURM_MEM_PER_NODE", "")
        if asked.isdigit() and int(asked):
            yield f"SLURM gave the job {int(asked) / 1024:.1f} GiB on each node"
        free = _fields(self._proc / "meminfo")
        if "MemAvailable" in free and "MemTotal" in free:
            now, whole = (free[key] * 1024 / _GB for key in ("MemAvailable", "MemTotal"))
            yield f"{now:.1f} of this machine's {whole:.1f} GB are free now"

    def _groups(self) -> Iterator[Path]:
        """This process's control group for memory, and those around it, the nearest first."""
        try:
            lines = (self._proc / "self/cgroup").read_text().splitlines()
        except OSError:
            return
        for line in lines:
            _, controllers, path = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            root = self._cgroups / controllers
            folder = root / path.strip("/")
            while folder.is_relative_to(root):
                yield folder
                folder = folder.parent


def _fields(path: Path) -> dict[str, int]:
    """The numbers of a file of lines such as ``name 5`` or ``name: 5 kB``."""
    try:
        lines = [line.replace(":", " ").split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdigit()}


def _first(folder: Path, *names: str) -> int | None:
    """The number in the first of these files that is there; None where it says ``max``."""
    for one in names:
        try:
            text = (folder / one).read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() else None
    return None
