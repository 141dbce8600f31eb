"""The one process that a launcher waits for, and the signals that it passes on to it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable, Mapping
from types import FrameType

from rlhf.runtime.processes import send, tied

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
WATCH_SECONDS = 0.2
GRACE_SECONDS = 60.0  # for a child that has to end because something else failed: it may save
KILL_SECONDS = 10.0  # after this it is killed


class Stopped(BaseException):
    """A signal came while there was no child to forward it to; its number is the argument."""


class Child:
    """A child process, and what becomes of the signals that this process gets.

    Args:
        translate: what to send the child for each signal; by default the same.
        farewell: what the child gets when this process ends, however it ends.
    """

    def __init__(
        self, translate: Callable[[int], int] = int, farewell: int = signal.SIGTERM
    ) -> None:
        self._translate, self._farewell = translate, farewell
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = False
        self._early: list[int] = []  # signals that came while the child was being started

    def catch_signals(self) -> None:
        """From now on, signals go to the child; before there is one, they raise ``Stopped``."""
        for number in FORWARDED:
            signal.signal(number, self._on_signal)

    def start(self, command: list[str], environment: Mapping[str, str]) -> None:
        """Start it. In the main thread: the child's end is tied to the thread that starts it."""
        self._starting = True
        self._process = subprocess.Popen(
            tied(command, self._farewell),
            env=environment,
            stdin=subprocess.DEVNULL,
            process_group=0,  # a terminal's Ctrl-C comes once, from here
        )
        self._starting = False
        for number in self._early:
            self._forward(number)

    def wait(self, meanwhile: Callable[[], None] = lambda: None) -> int:
        """Its exit code; 128 + n when signal n ended it.

        Args:
            meanwhile: called again and again until then.
        """
        assert self._process is not None
        while True:
            try:
                status = self._process.wait(WATCH_SECONDS)
                return 128 - status if status < 0 else status
            except subprocess.TimeoutExpired:
                meanwhile()

    def end(self) -> None:
        """Take no more signals; have the child save and end if it still runs, and wait a while."""
        for number in FORWARDED:
            signal.signal(number, signal.SIG_IGN)
        if self._process is not None and self._process.poll() is None:
            self._forward(signal.SIGTERM)
            for harder in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(GRACE_SECONDS if harder == signal.SIGTERM else KILL_SECONDS)
                    break
                send(self._process.pid, harder)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._process is not None:
            self._forward(number)
        elif self._starting:
            self._early.append(number)
        else:
            raise Stopped(number)

    def _forward(self, number: int) -> None:
        assert self._process is not None
        send(self._process.pid, self._translate(number))
