"""What all charts share: round ticks, their labels, scales and the colours' names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf.reporting.numbers import figure

COLOURS = 4


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) that cover ``low..high``.

    Args:
        low: least value.
        high: greatest value; equal bounds are widened.
        count: ticks wanted; a few more or less come out.
    """
    if high <= low:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    decimals = max(0, 1 - math.floor(math.log10(step)))
    return [round(i * step, decimals) for i in range(first, last + 1)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Labels with the same number of decimals, thousands as ``k`` and millions as ``M``."""
    top = max(abs(tick) for tick in ticks)
    scale, unit = (1e6, "M") if top >= 1e6 else (1e3, "k") if top >= 1e4 else (1.0, "")
    if 0 < top < 1e-3:
        return [figure(tick, 2) for tick in ticks]
    decimals = next(
        (d for d in range(6) if all(abs(t / scale - round(t / scale, d)) < 1e-9 for t in ticks)), 6
    )
    return [
        (f"{tick / scale:,.{decimals}f}{unit}" if tick else "0").replace("-", "−") for tick in ticks
    ]


@dataclass(frozen=True)
class Scale:
    """Maps the values ``low..high`` to the coordinates ``start..end`` along one axis."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The coordinate of a value."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def all(self, values: Sequence[float]) -> list[float]:
        """The coordinates of many values."""
        return [self(value) for value in values]


def colour(index: int) -> str:
    """Class of the colour of the line or row with this index."""
    return f"s{index % COLOURS}"
