"""Line charts as SVG text: no script, no fonts, no colours (the page's style sheet has them).

Classes used: ``chart grid tick axis name band line dashed dot slot s0 s1 s2 s3``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from rlhf.reporting.axes import Scale, colour, nice_ticks, tick_labels
from rlhf.reporting.numbers import figure
from rlhf.reporting.svg import element, points

WIDTH, HEIGHT = 360, 210
TOP, RIGHT, BOTTOM = 12, 12, 34
CHARACTER = 6.3  # mean width of a digit at the tick labels' size; gutters are made to fit
POINTS = 100  # more would be finer than the chart's pixels, and fill the page


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        label: its name in legend and hover titles.
        x: [n] ascending.
        y: [n]; values that are not finite leave gaps out.
        low: [n] lower edge of a confidence band, or None.
        high: [n] upper edge.
        dashed: draw as a reference line, without dots in the hover.
        hue: index of its colour; by default its place among the lines.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    dashed: bool = False
    hue: int | None = None

    def colour(self, index: int) -> str:
        """Class of its colour, where it is the line with this index."""
        return colour(index if self.hue is None else self.hue)


def thin(series: Series, limit: int = POINTS) -> Series:
    """Without values that are not finite, and with means of neighbours where points are many."""
    kept = [
        i
        for i, (x, y) in enumerate(zip(series.x, series.y, strict=True))
        if math.isfinite(x) and math.isfinite(y)
    ]
    size = max(1, math.ceil(len(kept) / limit))
    buckets = [kept[i : i + size] for i in range(0, len(kept), size)]

    def means(values: Sequence[float] | None) -> list[float] | None:
        if values is None:
            return None
        return [sum(values[i] for i in bucket) / len(bucket) for bucket in buckets]

    return Series(
        series.label,
        means(series.x) or [],
        means(series.y) or [],
        means(series.low),
        means(series.high),
        series.dashed,
        series.hue,
    )


def line_chart(series: Sequence[Series], *, title: str, x_label: str = "step") -> Markup:
    """A line chart with axes, grid and, when pointed at, the values at each x.

    Args:
        series: the lines; those without a finite point are left out.
        title: what a screen reader says.
        x_label: name of the x axis.

    Returns:
        One ``<svg>`` element, empty text when there is nothing to draw.
    """
    lines = [line for line in map(thin, series) if line.x]
    if not lines:
        return Markup("")
    xs = [x for line in lines for x in line.x]
    ys = [y for line in lines for part in (line.y, line.low, line.high) for y in part or ()]
    y_ticks = nice_ticks(min(ys), max(ys))
    labels = tick_labels(y_ticks)
    left = max(map(len, labels)) * CHARACTER + 8
    low, high = (min(xs), max(xs)) if max(xs) > min(xs) else (xs[0] - 1, xs[0] + 1)
    x_at = Scale(low, high, left, WIDTH - RIGHT)
    y_at = Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    return element(
        "svg",
        y_axis(y_ticks, labels, y_at, left),
        x_axis(low, high, x_at, x_label),
        *(_band(line, index, x_at, y_at) for index, line in enumerate(lines)),
        *(_line(line, index, x_at, y_at) for index, line in enumerate(lines)),
        _slots(lines, x_at, y_at, x_label),
        class_="chart",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=title,
    )


def y_axis(ticks: list[float], labels: list[str], y_at: Scale, left: float) -> Markup:
    """Labelled lines across a chart, which begins at ``left``."""
    parts = []
    for tick, label in zip(ticks, labels, strict=True):
        y = y_at(tick)
        parts.append(
            element("line", class_="grid", x1=left, x2=float(WIDTH - RIGHT), y1=y, y2=y)
            + element("text", label, class_="tick", x=left - 6, y=y + 3.5, text_anchor="end")
        )
    return element("g", *parts)


def x_axis(low: float, high: float, x_at: Scale, label: str) -> Markup:
    """The line at the foot of a chart, with labelled ticks and its name."""
    ticks = [tick for tick in nice_ticks(low, high, 6) if low <= tick <= high] or [(low + high) / 2]
    base = float(HEIGHT - BOTTOM)
    parts = [element("line", class_="axis", x1=x_at.start, x2=x_at.end, y1=base, y2=base)]
    for tick, text in zip(ticks, tick_labels(ticks), strict=True):
        x = x_at(tick)
        parts.append(element("line", class_="axis", x1=x, x2=x, y1=base, y2=base + 4))
        parts.append(element("text", text, class_="tick", x=x, y=base + 16, text_anchor="middle"))
    parts.append(
        element("text", label, class_="name", x=x_at.end, y=HEIGHT - 4.0, text_anchor="end")
    )
    return element("g", *parts)


def _band(line: Series, index: int, x_at: Scale, y_at: Scale) -> Markup:
    if line.low is None or line.high is None:
        return Markup("")
    xs = x_at.all(line.x)
    outline = points(xs + xs[::-1], y_at.all(line.high) + y_at.all(line.low)[::-1])
    return element("polygon", class_=f"band {line.colour(index)}", points=outline)


def _line(line: Series, index: int, x_at: Scale, y_at: Scale) -> Markup:
    classes = "line dashed" if line.dashed else f"line {line.colour(index)}"
    path = element("polyline", class_=classes, points=points(x_at.all(line.x), y_at.all(line.y)))
    if line.dashed or len(line.x) > POINTS // 4:
        return path
    dots = [
        element("circle", class_=f"dot {line.colour(index)}", cx=x_at(x), cy=y_at(y), r=2.2)
        for x, y in zip(line.x, line.y, strict=True)
    ]
    return path + Markup("").join(dots)


def _slots(lines: list[Series], x_at: Scale, y_at: Scale, x_label: str) -> Markup:
    """Invisible columns, one for each x, that show the values when pointed at."""
    values: dict[float, list[tuple[int, Series, float]]] = {}
    for index, line in enumerate(lines):
        if not line.dashed:
            for x, y in zip(line.x, line.y, strict=True):
                values.setdefault(x, []).append((index, line, y))
    xs = sorted(values)
    centres = x_at.all(xs)
    borders = [
        x_at.start,
        *((a + b) / 2 for a, b in pairwise(centres)),
        x_at.end,
    ]
    columns = []
    for x, centre, start, end in zip(xs, centres, borders, borders[1:], strict=False):
        title = [f"{x_label} {figure(x, 4)}"]
        title += [f"{line.label}: {figure(y, 4)}" for _, line, y in values[x]]
        columns.append(
            element(
                "g",
                element("title", "\n".join(title)),
                element("rect", x=start, y=TOP, width=end - start, height=HEIGHT - TOP - BOTTOM),
                element("line", x1=centre, x2=centre, y1=TOP, y2=HEIGHT - BOTTOM),
                *(
                    element("circle", class_=line.colour(index), cx=centre, cy=y_at(y), r=3.5)
                    for index, line, y in values[x]
                ),
                class_="slot",
            )
        )
    return element("g", *columns)
