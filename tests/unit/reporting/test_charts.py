from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest
from support.synthetic_results import HOSTILE, Results, full_run

from rlhf.provenance.lineage import Edge, Lineage, trace
from rlhf.reporting.axes import nice_ticks, tick_labels
from rlhf.reporting.charts import POINTS, Series, line_chart, thin
from rlhf.reporting.graph import lineage_graph
from rlhf.reporting.rows import bar_chart, interval_chart


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def coordinates(polyline: ElementTree.Element) -> list[tuple[float, float]]:
    pairs = (pair.split(",") for pair in polyline.attrib["points"].split())
    return [(float(x), float(y)) for x, y in pairs]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1.0]),
        (-1.3, 1.2, [-2, -1, 0, 1, 2]),
        (0, 97, [0, 25, 50, 75, 100]),
        (0.1, 0.3, [0.1, 0.15, 0.2, 0.25, 0.3]),
        (12_000, 61_000, [0, 20_000, 40_000, 60_000, 80_000]),
    ],
)
def test_nice_ticks(low: float, high: float, expected: list[float]) -> None:
    assert nice_ticks(low, high) == expected


@pytest.mark.parametrize("value", [0.0, 5.0, -3e-7, 1e9])
def test_ticks_of_a_constant_surround_it(value: float) -> None:
    ticks = nice_ticks(value, value)
    assert ticks[0] < value < ticks[-1]


def test_tick_labels() -> None:
    assert tick_labels([0, 0.25, 0.5]) == ["0", "0.25", "0.50"]
    assert tick_labels([-1, 0, 1]) == ["−1", "0", "1"]
    assert tick_labels([0, 10_000, 20_000]) == ["0", "10k", "20k"]
    assert tick_labels([0, 2.5e6, 5e6]) == ["0", "2.5M", "5.0M"]
    assert tick_labels([0, 5e-6]) == ["0", "5.0e−6"]


def test_line_goes_where_the_values_are() -> None:
    svg = parse(line_chart([Series("loss", [0, 1, 2], [0.0, 1.0, 0.5])], title="Loss"))
    (line,) = svg.findall(".//polyline")
    (x0, y0), (x1, y1), (x2, y2) = coordinates(line)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.02)
    assert y1 < y2 < y0  # up is less in SVG
    assert y2 == pytest.approx((y0 + y1) / 2, abs=0.02)
    assert svg.attrib["aria-label"] == "Loss"
    assert {text.text for text in svg.iter("text")} >= {"0", "0.25", "1.00", "step"}


def test_hover_titles_hold_all_series_of_a_step() -> None:
    chart = line_chart(
        [Series("train", [1, 2], [0.5, 0.25]), Series("validation", [2], [0.75])], title="Loss"
    )
    titles = [title.text for title in parse(chart).iter("title")]
    assert titles == ["step 1\ntrain: 0.5000", "step 2\ntrain: 0.2500\nvalidation: 0.7500"]


def test_band_and_reference_line() -> None:
    chart = parse(
        line_chart(
            [
                Series("measured", [0, 1], [0.5, 0.7], [0.4, 0.6], [0.6, 0.8]),
                Series("promised", [0, 1], [0.5, 0.73], dashed=True),
            ],
            title="Calibration",
            x_label="difference",
        )
    )
    assert len(chart.findall(".//polygon")) == 1
    assert [line.attrib["class"] for line in chart.iter("polyline")] == ["line s0", "line dashed"]
    assert "promised" not in "".join(title.text or "" for title in chart.iter("title"))


def test_gaps_and_nothing() -> None:
    nan = float("nan")
    svg = parse(line_chart([Series("a", [1, 2, 3], [1.0, nan, 2.0])], title="A"))
    assert "nan" not in ElementTree.tostring(svg, encoding="unicode")
    assert line_chart([Series("a", [1], [nan])], title="A") == ""
    assert line_chart([], title="A") == ""
    assert parse(line_chart([Series("a", [7], [3.0])], title="one point")) is not None


def test_long_runs_are_thinned_to_means() -> None:
    count = 10_000
    series = thin(Series("a", range(count), [float(i % 2) for i in range(count)]))
    assert len(series.x) == POINTS
    assert all(math.isclose(y, 0.5) for y in series.y)
    chart = line_chart([Series("a", range(count), [0.0] * count)], title="A")
    assert len(chart) < 50_000


def test_hostile_labels_are_escaped() -> None:
    charts = [
        line_chart([Series(HOSTILE, [0, 1], [0, 1])], title=HOSTILE, x_label=HOSTILE),
        bar_chart([(HOSTILE, 1.0, HOSTILE)], title=HOSTILE),
        interval_chart([(HOSTILE, 1.0, 0.5, 1.5)], title=HOSTILE),
    ]
    for chart in charts:
        assert "<script" not in chart
        assert HOSTILE in "".join(parse(chart).itertext())


def test_bars_are_proportional() -> None:
    svg = parse(bar_chart([("a", 50.0, "50 s"), ("b", 100.0, "100 s"), ("c", 0, "0")], title="T"))
    widths = [bar.attrib["width"] for bar in svg.iter("rect") if bar.attrib["class"] == "bar"]
    assert widths == ["50.00%", "100.00%", "0.40%"]  # a trace is left of nothing, to point at
    assert bar_chart([], title="T") == ""


def test_intervals_are_in_order() -> None:
    svg = parse(interval_chart([("a", 1.0, 0.5, 1.5)], title="T", reference=0.0))
    (whisker,) = [line for line in svg.iter("line") if line.attrib["class"].startswith("whisker")]
    (dot,) = svg.iter("circle")
    low, high, mean = (
        float(text.rstrip("%"))
        for text in (whisker.attrib["x1"], whisker.attrib["x2"], dot.attrib["cx"])
    )
    assert low < mean < high
    assert mean == pytest.approx((low + high) / 2, abs=0.02)


def test_graph_runs_left_to_right_without_overlaps(results: Results) -> None:
    inputs = full_run(results, steps=5)
    lineage = trace(inputs["evaluation"])
    svg = parse(lineage_graph(lineage))
    boxes = {}
    for group in svg.iter("g"):
        rect, title = group.find("rect"), group.find("title")
        assert rect is not None
        assert title is not None
        digest = (title.text or "").split("manifest ")[1][:64]
        boxes[digest] = (float(rect.attrib["x"]), float(rect.attrib["y"]))
    assert set(boxes) == {node.digest for node in lineage.nodes}
    assert len(set(boxes.values())) == len(boxes)
    assert all(boxes[edge.parent][0] < boxes[edge.child][0] for edge in lineage.edges)
    assert len(list(svg.iter("path"))) == len(lineage.edges)
    for digest, (x, y) in boxes.items():
        for other, (x2, y2) in boxes.items():
            assert digest == other or x != x2 or abs(y - y2) >= 52


def test_graph_shows_missing_parents(results: Results) -> None:
    model = results.add("models", "tiny")
    lineage = trace(model)
    broken = Lineage(lineage.nodes, (), (Edge("f" * 64, lineage.nodes[0].digest, "data"),))
    svg = lineage_graph(broken)
    assert "box missing" in svg
    assert "ffffffff" in svg
    assert lineage_graph(Lineage((), (), ())) == ""
