"""Numbers of the command line, with their bounds."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def whole(least: int) -> Callable[[str], int]:
    """A reader of whole numbers, for ``type=``.

    Args:
        least: the smallest that is taken.
    """

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number of {least} or more")
        return number

    return read


def number(least: float, most: float = math.inf) -> Callable[[str], float]:
    """A reader of finite numbers, for ``type=``.

    Args:
        least: the smallest that is taken.
        most: the largest that is taken.
    """
    bounds = f"from {least:g} to {most:g}" if math.isfinite(most) else f"of {least:g} or more"

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no number {bounds}")
        return value

    return read
