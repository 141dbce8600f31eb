"""Figures of datasets and mixtures as tables for a terminal, and as a drawing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from rlhf.reporting.axes import colour
from rlhf.reporting.charts import Series, line_chart
from rlhf.reporting.numbers import figure, percent
from rlhf.reporting.rows import ROW, bar_chart
from rlhf.reporting.svg import element

WIDTH, MARGIN, HEADING = 720, 20, 34  # pixels
CHART_WIDTH, CHART_HEIGHT = 330, 193  # of a line chart, two of which are side by side
COLOURS = ("#2b6a9b", "#c2602a", "#3c8a5c", "#8759a8")
# No variables and no inheritance from a page: drawing programs show the file too.
STYLE = """
text { font-family: system-ui, sans-serif; font-size: 11px; fill: #6a675f; }
.heading { font-size: 15px; font-weight: 600; fill: #22211e; }
.label { font-size: 13px; fill: #22211e; }
.grid { stroke: #e6e3db; } .axis { stroke: #6a675f; stroke-opacity: .55; }
.track { fill: #e6e3db; } .bar { fill: #2b6a9b; } .line { fill: none; stroke-width: 1.6; }
.slot { opacity: 0; }
""" + "".join(
    f".line.s{i} {{ stroke: {hue}; }} .dot.s{i}, .key.s{i} {{ fill: {hue}; }}\n"
    for i, hue in enumerate(COLOURS)
)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as they need; numbers to the right, under their headings."""
    texts = [[_cell(value) for value in row] for row in rows]
    right = [all(_is_number(row[i]) for row in texts) for i in range(len(header))]
    widths = [max(map(len, column)) for column in zip(header, *texts, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in [list(header), *texts]
    ]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return figure(value) if isinstance(value, int | float) else str(value)


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text in ("–", "")


def tables(found: dict[str, Any]) -> str:
    """The tokenized sets, then each run's mixture.

    Args:
        found: from ``mixtures.describe``.
    """
    sets = table(
        ["view", "model", "dataset", "split", "rows", "tokens", "mean", "median", "p95", "longest",
         "truncated", "dropped", "labelled"],
        (
            [one["view"], one["model"], one["dataset"], one["split"], one["rows"], one["tokens"],
             *(one["length"].get(name) for name in ("mean", "median", "p95", "max")),
             one["truncated"], one["dropped"],
             percent(one["label_share"]) if "label_share" in one else ""]
            for one in found["datasets"]
        ),
    )  # fmt: skip
    return "\n\n".join([sets, *(_mixture_table(one) for one in found["mixtures"])])


def _mixture_table(mixture: dict[str, Any]) -> str:
    rows = table(
        ["dataset", "rows", "left out", "an epoch", "of rows", "tokens", "of tokens", "held out"],
        (
            [one["dataset"], one["rows"], one["left_out"], one["epoch_rows"],
             percent(one["share_of_rows"]), one["epoch_tokens"], percent(one["share_of_tokens"]),
             one["validation_rows"]]
            for one in mixture["datasets"]
        ),
    )  # fmt: skip
    labels = mixture["label_share"]
    return (
        f"{mixture['run']}: {figure(mixture['epochs'])} epochs of {mixture['epoch_rows']:,} rows "
        f"and about {mixture['epoch_tokens']:,} tokens"
        f"{f', {percent(labels)} labelled' if labels else ''}\n{rows}"
    )


def duplicates_tables(found: dict[str, Any]) -> str:
    """Repeated rows, and the prompts that parts of the data share.

    Args:
        found: from ``data.duplicates.survey``.
    """
    repeated = table(
        ["view", "rows of", "repeat", "kind", "rows", "share"],
        (
            [one["view"], f"{one['dataset']} {one['split']}",
             f"{one['of_dataset']} {one['of_split']}", one["kind"], one["rows"],
             percent(one["rows"] / one["of"])]
            for one in found["repeated"]
        ),
    )  # fmt: skip
    names = sorted({(one["view"], one["split"]) for one in found["shared_prompts"]})
    counts = {
        frozenset([(one["view"], one["split"]), (one["other_view"], one["other_split"])]): one
        for one in found["shared_prompts"]
    }
    shared = table(
        ["shared prompts", *(" ".join(name) for name in names)],
        (
            [" ".join(a), *(counts[frozenset([a, b])]["prompts"] for b in names)]
            for a in names
        ),
    )  # fmt: skip
    return f"{repeated if found['repeated'] else 'no row repeats another'}\n\n{shared}"


def phrases_table(found: Sequence[dict[str, Any]]) -> str:
    """Phrases by dataset, view and split, with places where they appear.

    Args:
        found: from ``data.phrases.count``.
    """
    if not found:
        return "none of the phrases appears"
    rows: list[list[object]] = []
    for one in found:
        shown = [f"{place['id']}: {' '.join(place['text'].split())}" for place in one["examples"]]
        place = [one["dataset"], one["view"], one["split"]]
        figures = [one["rows"], percent(one["rows"] / one["of"])]
        rows.append([*place, *figures, one["phrase"], " | ".join(shown)])
    return table(["dataset", "view", "split", "rows", "share", "phrase", "for example"], rows)


def draw(found: dict[str, Any]) -> str:
    """One SVG file: the tokens of each mixture by dataset, and the lengths of each set's rows.

    Args:
        found: from ``mixtures.describe``.
    """
    parts: list[Markup] = []
    y = MARGIN
    for mixture in found["mixtures"]:
        bars = [
            (
                one["dataset"],
                float(one["epoch_tokens"]),
                f"{one['epoch_rows']:,} rows, {one['epoch_tokens']:,} tokens, "
                f"{percent(one['share_of_tokens'])}",
            )
            for one in mixture["datasets"]
        ]
        heading = f"{mixture['run']}: tokens of an epoch"
        parts += [_heading(heading, y), _place(bar_chart(bars, title=heading), y + HEADING)]
        y += HEADING + ROW * len(bars) + MARGIN
    sets = dict.fromkeys((one["view"], one["model"]) for one in found["datasets"])
    for i, (view, model) in enumerate(sets):
        lines = [
            _histogram(one)
            for one in found["datasets"]
            if (one["view"], one["model"], one["split"]) == (view, model, "train") and one["rows"]
        ]
        heading = f"{view}, {model}: rows by length"
        chart = line_chart(lines, title=heading, x_label="tokens")
        x = MARGIN + i % 2 * (WIDTH - MARGIN - CHART_WIDTH - MARGIN)
        parts += [_heading(heading, y, x), *_legend(lines, x, y + HEADING - 12)]
        parts.append(_place(chart, y + HEADING + 4, x, CHART_WIDTH, CHART_HEIGHT))
        if i % 2 or i == len(sets) - 1:
            y += HEADING + CHART_HEIGHT + MARGIN
    drawing = element(
        "svg",
        element("style", Markup(STYLE)),
        element("rect", width="100%", height="100%", fill="#fcfbf8"),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        width=WIDTH,
        height=y,
        viewBox=f"0 0 {WIDTH} {y}",
    )
    return f"{drawing}\n"


def _histogram(one: dict[str, Any]) -> Series:
    edges, rows = (one["length"]["histogram"][name] for name in ("edges", "rows"))
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    return Series(one["dataset"], middles, [count / one["rows"] for count in rows])


def _heading(text: str, y: int, x: int = MARGIN) -> Markup:
    return element("text", text, class_="heading", x=x, y=y + 14)


def _legend(lines: Sequence[Series], x: float, y: int) -> list[Markup]:
    parts = []
    for index, line in enumerate(lines):
        mark = f"key {colour(index)}"
        parts.append(element("circle", class_=mark, cx=x + 4, cy=y + 6.0, r=4))
        parts.append(element("text", line.label, x=x + 13, y=y + 10.0))
        x += 30 + 6.5 * len(line.label)
    return parts


def _place(
    chart: Markup, y: int, x: int = MARGIN, width: int = WIDTH - 2 * MARGIN, height: Any = None
) -> Markup:
    """A chart at its place in the drawing."""
    return element("svg", chart, x=x, y=y, width=width, height=height, overflow="visible")
