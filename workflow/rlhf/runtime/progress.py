"""Progress: a bar on a terminal, a plain line now and then otherwise."""

from __future__ import annotations

import logging
import sys
import time

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

logger = logging.getLogger(__name__)


class Progress:
    """Steps done, tokens per second, time left.

    Args:
        what: name shown, such as ``train_sft.chat``.
        total: steps in the whole run.
        done: steps done by an earlier attempt.
        every: seconds between two plain lines.
        quiet: show nothing (ranks other than 0).
    """

    def __init__(
        self, what: str, total: int, done: int = 0, every: float = 10.0, quiet: bool = False
    ) -> None:
        self._what, self._total, self._done, self._every = what, total, done, every
        self._first, self._tokens, self._started = done, 0, time.monotonic()
        self._last_line, self._quiet = self._started, quiet
        self._terminal = sys.stderr.isatty() and not quiet
        if self._terminal:
            self._redirect = logging_redirect_tqdm()
            self._redirect.__enter__()
            self._bar = tqdm(total=total, initial=done, desc=what, unit="step", leave=True)

    def advance(self, tokens: int, note: str = "") -> None:
        """One step is done; it went over ``tokens`` tokens. ``note`` stands at the end."""
        self._done += 1
        self._tokens += tokens
        now = time.monotonic()
        speed = self._tokens / max(now - self._started, 1e-9)
        if self._terminal:
            self._bar.set_postfix_str(f"{speed:,.0f} tok/s {note}", refresh=False)
            self._bar.update(1)
        elif not self._quiet and (
            now - self._last_line >= self._every or self._done in (self._first + 1, self._total)
        ):
            self._last_line = now
            steps = self._done - self._first
            left = (now - self._started) / steps * (self._total - self._done)
            logger.info(
                "%s step %d/%d  %s tok/s  %s left  %s",
                self._what, self._done, self._total, f"{speed:,.0f}", _clock(left), note,
            )  # fmt: skip

    def close(self) -> None:
        """Leave the bar as it is and give the terminal back."""
        if self._terminal:
            self._bar.close()
            self._redirect.__exit__(None, None, None)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
