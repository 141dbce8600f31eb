"""Reward against the distance from the reference: where it rises and the gold reward does not.

Classes used: those of line charts, and ``ring gap``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from rlhf.reporting.axes import Scale, colour, nice_ticks, tick_labels
from rlhf.reporting.charts import BOTTOM, CHARACTER, HEIGHT, RIGHT, TOP, WIDTH, x_axis, y_axis
from rlhf.reporting.numbers import figure
from rlhf.reporting.svg import element


@dataclass(frozen=True)
class Point:
    """One policy.

    Attributes:
        label: its name.
        method: section of its run, such as ``ppo``.
        hue: index of its colour.
        kl: KL from the reference, in nats per response; noise may make it negative.
        proxy: gain over the SFT model by the reward model.
        gold: the same by the gold reward model, or None.
    """

    label: str
    method: str
    hue: int
    kl: float
    proxy: float
    gold: float | None = None

    @property
    def distance(self) -> float:
        """√KL from the reference."""
        return distance(self.kl)


def distance(kl: float) -> float:
    """√KL, along which Gao et al. (2022) plot rewards; 0 where noise makes the KL negative."""
    return math.sqrt(max(0.0, kl))


def reward_by_distance(points: Sequence[Point], *, title: str) -> Markup:
    """Gains in reward over the SFT model, which is at the origin, against √KL.

    A full dot is the reward model's, a ring the gold reward model's; a line joins those of one
    policy.

    Args:
        points: the policies.
        title: what a screen reader says.

    Returns:
        One ``<svg>`` element, empty text without points.
    """
    if not points:
        return Markup("")
    gains = [0.0, *(gain for one in points for gain in (one.proxy, one.gold) if gain is not None)]
    y_ticks = nice_ticks(min(gains), max(gains))
    labels = tick_labels(y_ticks)
    left = max(map(len, labels)) * CHARACTER + 8
    furthest = max(one.distance for one in points) or 1.0
    x_at = Scale(0.0, furthest, left, WIDTH - RIGHT - 6)
    y_at = Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    zero = y_at(0.0)
    return element(
        "svg",
        y_axis(y_ticks, labels, y_at, left),
        x_axis(0.0, furthest, x_at, "√KL"),
        element("line", class_="axis dashed", x1=left, x2=float(WIDTH - RIGHT), y1=zero, y2=zero),
        *(_marks(one, x_at, y_at) for one in points),
        class_="chart",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=title,
    )


def _marks(point: Point, x_at: Scale, y_at: Scale) -> Markup:
    x, y, shade = x_at(point.distance), y_at(point.proxy), colour(point.hue)
    said = f"{point.label}: √KL {figure(point.distance)}, reward {figure(point.proxy)}"
    marks = [element("circle", class_=f"dot {shade}", cx=x, cy=y, r=3.5)]
    if point.gold is not None:
        said += f", gold reward {figure(point.gold)}"
        other = y_at(point.gold)
        marks += [
            element("line", class_=f"gap {shade}", x1=x, x2=x, y1=y, y2=other),
            element("circle", class_=f"ring {shade}", cx=x, cy=other, r=3.5),
        ]
    return element("g", element("title", said), *marks)
