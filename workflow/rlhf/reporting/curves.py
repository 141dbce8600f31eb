"""Which curves a stage's metrics are drawn as."""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

from rlhf.catalog import RUNS
from rlhf.reporting.artifacts import Artifact
from rlhf.reporting.axes import colour
from rlhf.reporting.charts import Series, line_chart
from rlhf.reporting.numbers import figure


@dataclass(frozen=True)
class Figure:
    """A chart as the page shows it.

    Attributes:
        title: what is drawn.
        unit: unit of the y axis.
        svg: the chart.
        legend: for each line its swatch's class, its label and its last value as text.
    """

    title: str
    unit: str
    svg: Markup
    legend: tuple[tuple[str, str, str], ...]


def figures(artifact: Artifact) -> list[Figure]:
    """All charts of an artifact whose metrics are there."""
    drawn = []
    for plot in RUNS[artifact.role].plots if artifact.role in RUNS else ():
        series = [artifact.series(key, label) for key, label in plot.lines]
        series = [line for line in series if any(map(math.isfinite, line.y))]
        if series:
            drawn.append(_figure(plot.title, plot.unit, series))
    if artifact.evaluation.get("calibration"):
        drawn.append(_calibration(artifact.evaluation["calibration"]))
    return drawn


def _figure(title: str, unit: str, series: list[Series]) -> Figure:
    legend = tuple(
        (colour(index), line.label if len(series) > 1 else "last", figure(line.y[-1]))
        for index, line in enumerate(series)
    )
    return Figure(title, unit, line_chart(series, title=title), legend)


def _calibration(bins: list[dict[str, float]]) -> Figure:
    """Accuracy by score difference, beside what Bradley-Terry promises for that difference."""
    x = [one["difference"] for one in bins]
    measured = Series(
        "measured",
        x,
        [one["accuracy"] for one in bins],
        [one["low"] for one in bins] if "low" in bins[0] else None,
        [one["high"] for one in bins] if "high" in bins[0] else None,
    )
    grid = [max(x) * i / 40 for i in range(41)]
    promised = Series("promised", grid, [1 / (1 + math.exp(-d)) for d in grid], dashed=True)
    title, x_label = "Calibration", "score difference"
    chart = line_chart([measured, promised], title=title, x_label=x_label)
    legend = ((colour(0), measured.label, ""), ("dashed", promised.label, ""))
    return Figure(title, "accuracy by score difference", chart, legend)
