"""When to stop: signals and the end of the allocation; the training loop asks, saves and leaves."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType

DEADLINE = "RLHF_DEADLINE"  # end of the allocation, in seconds since 1970; the launcher sets it
SAVING_SHARE = 0.05  # of a run's time goes into saves between its steps, at most


class Saved(Exception):
    """The state is saved and the job should be run again (exit code 75)."""


class StopRequest:
    """A flag that SIGTERM, SIGUSR2 and the first Ctrl-C set; a second Ctrl-C interrupts at once.

    Handlers only set the flag: the loop asks ``requested()`` between steps, where saving is safe.
    """

    installed: StopRequest | None = None  # the one that this process's signals set

    def __init__(self) -> None:
        self._flag = threading.Event()

    def install(self) -> StopRequest:
        """Catch the signals in this process (main thread only)."""
        StopRequest.installed = self
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
            signal.signal(number, self._on_signal)
        return self

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self._flag.set()

    def requested(self) -> bool:
        """Whether somebody asked this process to stop."""
        return self._flag.is_set()


def stop_requested() -> bool:
    """Whether a signal asked this process to stop, since it began to catch them."""
    return StopRequest.installed is not None and StopRequest.installed.requested()


class Deadline:
    """The end of the allocation, and the margin before it that a save needs.

    One more step and a save have to fit into the margin: it is twice the longest save and twice
    the longest step so far, for a shared file system may be slower next time.

    Args:
        least: seconds of margin while nothing longer was measured.
    """

    def __init__(self, least: float) -> None:
        announced = os.environ.get(DEADLINE)
        self.ends = float(announced) if announced else None
        self.longest_step = self.longest_save = 0.0
        self._least = least

    @property
    def margin(self) -> float:
        """Seconds before the end from which on no further step is begun."""
        return max(self._least, 2 * self.longest_save + 2 * self.longest_step)

    def interval(self, wanted: float) -> float:
        """Seconds between two saves: more than wanted where saves would take too much of them."""
        return max(wanted, self.longest_save * (1 / SAVING_SHARE - 1)) if wanted else 0.0

    def stepped(self, seconds: float) -> None:
        """A step took so long."""
        self.longest_step = max(self.longest_step, seconds)

    def saved(self, seconds: float) -> None:
        """A save took so long."""
        self.longest_save = max(self.longest_save, seconds)

    def near(self) -> bool:
        """Whether the margin has begun."""
        return self.ends is not None and time.time() > self.ends - self.margin

    def __str__(self) -> str:
        if self.ends is None:
            return "the allocation has no known end"
        ends = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.ends))
        return (
            f"the allocation ends at {ends}; the last step begins {self.margin:.0f} s before "
            f"(longest step {self.longest_step:.1f} s, longest save {self.longest_save:.1f} s)"
        )
