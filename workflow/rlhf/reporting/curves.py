"""Which curves a stage's metrics are drawn as."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from markupsafe import Markup

from rlhf.catalog import RUNS, Plot
from rlhf.reporting.axes import colour
from rlhf.reporting.charts import Series, line_chart
from rlhf.reporting.numbers import figure
from rlhf.reporting.runs import Run


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


def figures(run: Run) -> list[Figure]:
    """All charts of a run whose metrics are there, with the curves of all its seeds."""
    drawn = []
    for plot in RUNS[run.role].plots if run.role in RUNS else ():
        lines = [run.series(key, label) for key, label in plot.lines]
        lines = [seeds for seeds in lines if any(map(_is_drawn, seeds))]
        if lines and run.several:
            drawn.append(_figure_of_seeds(plot, lines, run.labels))
        elif lines:
            drawn.append(_figure(plot.title, plot.unit, [line for (line,) in lines]))
    pairs = zip(run.labels, run.artifacts, strict=True)
    curves = {label: one.evaluation.get("calibration") for label, one in pairs}
    if measured := {label: bins for label, bins in curves.items() if bins}:
        drawn.append(_calibration(measured))
    return drawn


def _is_drawn(line: Series) -> bool:
    return any(map(math.isfinite, line.y))


def _figure_of_seeds(plot: Plot, lines: list[list[Series]], labels: list[str]) -> Figure:
    """A curve for each seed: in its own colour, or in that of its metric where there are more."""
    alone = len(lines) == 1
    series = [
        replace(
            curve,
            label=labels[seed] if alone else f"{curve.label}, {labels[seed]}",
            hue=seed if alone else index,
        )
        for index, seeds in enumerate(lines)
        for seed, curve in enumerate(seeds)
        if _is_drawn(curve)
    ]
    if alone:
        legend = [(line.colour(0), line.label, figure(line.y[-1])) for line in series]
    else:
        legend = []
        for index, seeds in enumerate(lines):
            last = [curve.y[-1] for curve in seeds if curve.y]
            legend.append((colour(index), seeds[0].label, figure(sum(last) / len(last))))
    return Figure(plot.title, plot.unit, line_chart(series, title=plot.title), tuple(legend))


def _figure(title: str, unit: str, series: list[Series]) -> Figure:
    legend = tuple(
        (colour(index), line.label if len(series) > 1 else "last", figure(line.y[-1]))
        for index, line in enumerate(series)
    )
    return Figure(title, unit, line_chart(series, title=title), legend)


def _calibration(curves: dict[str, list[dict[str, float]]]) -> Figure:
    """Accuracy by score difference, beside what Bradley-Terry promises for that difference."""
    measured = []
    for label, bins in curves.items():
        banded = len(curves) == 1 and "low" in bins[0]
        measured.append(
            Series(
                label or "measured",
                [one["difference"] for one in bins],
                [one["accuracy"] for one in bins],
                [one["low"] for one in bins] if banded else None,
                [one["high"] for one in bins] if banded else None,
            )
        )
    furthest = max(max(line.x) for line in measured)
    grid = [furthest * i / 40 for i in range(41)]
    promised = Series("promised", grid, [1 / (1 + math.exp(-d)) for d in grid], dashed=True)
    title, x_label = "Calibration", "score difference"
    chart = line_chart([*measured, promised], title=title, x_label=x_label)
    legend = [(colour(i), line.label, "") for i, line in enumerate(measured)]
    legend.append(("dashed", promised.label, ""))
    return Figure(title, "accuracy by score difference", chart, tuple(legend))
