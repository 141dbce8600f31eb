"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise

MINUS = "−"
SMALL = 1e-3  # below this, plain decimals would show zeros only


def figure(value: float | None, digits: int = 3) -> str:
    """A number with about ``digits`` significant digits, ``–`` where there is none.

    Whole parts are never rounded away: 12345.6 is ``12,346``, not ``12,300``.
    """
    if value is None or not math.isfinite(value):
        return "–"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}".replace("-", MINUS)
    size = abs(value)
    if size < SMALL:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
    decimals = min(digits, max(0, digits - 1 - math.floor(math.log10(size))))
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def percent(value: float | None) -> str:
    """A share of 1 as a percentage with one decimal."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{100 * value:.1f} %".replace("-", MINUS)


def interval(value: Mapping[str, float] | None, form: Callable[[float], str] = figure) -> str:
    """``[low, high]`` of an interval, or an empty text where there is none."""
    if not value or "low" not in value or "high" not in value:
        return ""
    return f"[{form(value['low'])}, {form(value['high'])}]"


def duration(seconds: float) -> str:
    """Seconds as ``850 ms``, ``42 s``, ``12 min 5 s``, ``3 h 20 min`` or ``2 d 4 h``."""
    if seconds < 1:
        return f"{round(seconds * 1000)} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    steps = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for (unit, size), (small_unit, small) in pairwise(steps):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {unit}" + (f" {rest} {small_unit}" if rest else "")
    return f"{whole} s"


def short(digest: str) -> str:
    """The first eight characters of a digest, enough to tell artifacts apart by eye."""
    return digest[:8] or "–"
