"""When to stop: signals set a flag, the training loop looks at it, saves and leaves."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Saved(Exception):
    """The state is saved and the job should be run again (exit code 75)."""


class StopRequest:
    """A flag that SIGTERM, SIGUSR2 and the first Ctrl-C set; a second Ctrl-C interrupts at once.

    Handlers only set the flag: the loop asks ``requested()`` between steps, where saving is safe.
    """

    def __init__(self) -> None:
        self._flag = threading.Event()

    def install(self) -> StopRequest:
        """Catch the signals in this process (main thread only)."""
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
