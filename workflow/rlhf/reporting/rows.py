"""Charts of labelled rows: bars and intervals, as wide as the page allows.

Lengths are percentages instead of a scaled drawing, so the text keeps its size on a telephone.
Classes used: ``chart rows label value track bar grid axis dashed tick whisker dot s0 s1 s2 s3``.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from rlhf.reporting.axes import Scale, colour, nice_ticks, tick_labels
from rlhf.reporting.numbers import figure
from rlhf.reporting.svg import element

ROW = 38  # height in pixels: a line of text above, the mark beneath


def bar_chart(rows: Sequence[tuple[str, float, str]], *, title: str) -> Markup:
    """Horizontal bars from zero.

    Args:
        rows: label, value ≥ 0, and the value as text.
        title: what a screen reader says.

    Returns:
        One ``<svg>`` element, empty text without rows.
    """
    if not rows:
        return Markup("")
    top = max(value for _, value, _ in rows) or 1.0
    parts = []
    for index, (label, value, text) in enumerate(rows):
        y = index * ROW
        parts += [
            element("text", label, class_="label", x=0, y=y + 14),
            element("text", text, class_="value", x="100%", y=y + 14, text_anchor="end"),
            element("rect", class_="track", x=0, y=y + 21, width="100%", height=6, rx=3),
            element(
                "rect",
                element("title", f"{label}: {text}"),
                class_="bar",
                x=0,
                y=y + 21,
                width=f"{max(0.4, 100 * value / top):.2f}%",
                height=6,
                rx=3,
            ),
        ]
    return element(
        "svg",
        *parts,
        class_="chart rows",
        width="100%",
        height=len(rows) * ROW,
        role="img",
        aria_label=title,
    )


def interval_chart(
    rows: Sequence[tuple[str, float, float, float]], *, title: str, reference: float | None = None
) -> Markup:
    """Means with the whiskers of their confidence intervals on one common axis.

    Args:
        rows: label, mean, low, high.
        title: what a screen reader says.
        reference: a value to mark with a dashed line, such as 0.

    Returns:
        One ``<svg>`` element, empty text without rows.
    """
    if not rows:
        return Markup("")
    ends = [end for _, _, low, high in rows for end in (low, high)]
    ends += [] if reference is None else [reference]
    ticks = nice_ticks(min(ends), max(ends))
    at = Scale(ticks[0], ticks[-1], 0.0, 100.0)
    bottom = len(rows) * ROW + 4.0
    parts = []
    for index, (tick, text) in enumerate(zip(ticks, tick_labels(ticks), strict=True)):
        x = f"{at(tick):.2f}%"
        anchor = "start" if index == 0 else "end" if index == len(ticks) - 1 else "middle"
        parts.append(element("line", class_="grid", x1=x, x2=x, y1=0, y2=bottom))
        parts.append(element("text", text, class_="tick", x=x, y=bottom + 14, text_anchor=anchor))
    if reference is not None:
        x = f"{at(reference):.2f}%"
        parts.append(element("line", class_="axis dashed", x1=x, x2=x, y1=0, y2=bottom))
    for index, (label, mean, low, high) in enumerate(rows):
        y = index * ROW + 26
        text = f"{figure(mean)} [{figure(low)}, {figure(high)}]"
        start, end, centre = (f"{at(value):.2f}%" for value in (low, high, mean))
        parts += [
            element("text", label, class_="label", x=0, y=y - 12),
            element("text", text, class_="value", x="100%", y=y - 12, text_anchor="end"),
            element(
                "g",
                element("title", f"{label}: {text}"),
                element("line", class_=f"whisker {colour(index)}", x1=start, x2=end, y1=y, y2=y),
                element("circle", class_=f"dot {colour(index)}", cx=centre, cy=y, r=4.5),
            ),
        ]
    return element(
        "svg",
        *parts,
        class_="chart rows",
        width="100%",
        height=int(bottom + 20),
        role="img",
        aria_label=title,
    )
