"""The lineage as a drawing: ancestors left, what came of them right.

A small layered layout (Sugiyama, 1981): layers by longest path, edges over several layers broken
by waypoints so that they pass between boxes, and rows ordered by the mean of their neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from rlhf.provenance.lineage import Edge, Lineage, Node, results_root
from rlhf.reporting.numbers import short
from rlhf.reporting.svg import element, number

BOX_WIDTH, BOX_HEIGHT = 134, 52
COLUMN, ROW = 180, 74
WAYPOINT = 22  # height of the row through which a long edge passes
MARGIN = 8
SWEEPS = 6
LABEL_CHARACTERS = 17  # what fits into a box


@dataclass(frozen=True)
class _Vertex:
    """A box of the drawing: an artifact, or a parent that is gone (``node`` is None)."""

    digest: str
    node: Node | None


def lineage_graph(lineage: Lineage) -> Markup:
    """The lineage as one ``<svg>`` element; empty text without nodes.

    Boxes show stage, name and the manifest's short digest; pointing at one shows the digests in
    full. Parents that were not found are dashed. Identical artifacts are drawn once.
    """
    if not lineage.nodes:
        return Markup("")
    vertices = {node.digest: _Vertex(node.digest, node) for node in lineage.nodes}
    for edge in lineage.missing:
        vertices.setdefault(edge.parent, _Vertex(edge.parent, None))
    edges = [*lineage.edges, *lineage.missing]
    layers, paths = _layers(list(vertices), edges)
    _order(layers, paths)
    places = _places(layers)
    drawn = [_edge(edge, path, places) for edge, path in zip(edges, paths, strict=True)]
    drawn += [_box(vertex, *places[vertex.digest]) for vertex in vertices.values()]
    width = (len(layers) - 1) * COLUMN + BOX_WIDTH + 2 * MARGIN
    height = int(max(y for _, y in places.values())) + ROW // 2
    return element(
        "svg",
        *drawn,
        class_="graph",
        viewBox=f"0 0 {width} {height}",
        style=f"min-width: {0.9 * width:.0f}px; max-width: {width}px",
        role="img",
        aria_label="Lineage: which artifact was made from which",
    )


def _layers(names: list[str], edges: list[Edge]) -> tuple[list[list[str]], list[list[str]]]:
    """Columns of names, waypoints among them, and the chain of names that each edge follows."""
    depth = dict.fromkeys(names, 0)
    for _ in names:  # an acyclic graph settles after as many rounds as its longest path
        for edge in edges:
            depth[edge.child] = max(depth[edge.child], depth[edge.parent] + 1)
    for name in names:  # a source stands beside its first child, not far left of it
        children = [depth[edge.child] for edge in edges if edge.parent == name]
        if children and not any(edge.child == name for edge in edges):
            depth[name] = min(children) - 1
    layers: list[list[str]] = [[] for _ in range(max(depth.values()) + 1)]
    for name in names:
        layers[depth[name]].append(name)
    paths = []
    for index, edge in enumerate(edges):
        path = [edge.parent]
        for column in range(depth[edge.parent] + 1, depth[edge.child]):
            path.append(f"{index}:{column}")
            layers[column].append(path[-1])
        paths.append([*path, edge.child])
    return layers, paths


def _order(layers: list[list[str]], paths: list[list[str]]) -> None:
    """Sort each column by the mean place of its neighbours, left to right and back."""
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    for path in paths:
        for left, right in pairwise(path):
            before.setdefault(right, []).append(left)
            after.setdefault(left, []).append(right)
    for sweep in range(SWEEPS):
        neighbours = before if sweep % 2 == 0 else after
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            place = {name: i / len(column) for column in layers for i, name in enumerate(column)}
            layer.sort(
                key=lambda name: (
                    sum(place[n] for n in neighbours[name]) / len(neighbours[name])
                    if neighbours.get(name)
                    else place[name]
                )
            )


def _places(layers: list[list[str]]) -> dict[str, tuple[float, float]]:
    """Left edge and middle of each box and waypoint, columns centred on each other."""
    heights = [[WAYPOINT if _is_waypoint(name) else ROW for name in layer] for layer in layers]
    tallest = max(map(sum, heights))
    places: dict[str, tuple[float, float]] = {}
    for column, (layer, rows) in enumerate(zip(layers, heights, strict=True)):
        y = (tallest - sum(rows)) / 2
        for name, height in zip(layer, rows, strict=True):
            places[name] = (MARGIN + column * COLUMN, y + height / 2)
            y += height
    return places


def _is_waypoint(name: str) -> bool:
    return ":" in name  # digests have no colon


def _edge(edge: Edge, path: list[str], places: dict[str, tuple[float, float]]) -> Markup:
    x, y = places[path[0]][0] + BOX_WIDTH, places[path[0]][1]
    curve = f"M{number(x)},{number(y)}"
    for name in path[1:]:
        to_x, to_y = places[name]
        bend = (to_x - x) / 2
        curve += f" C{number(x + bend)},{number(y)} {number(to_x - bend)},{number(to_y)}"
        curve += f" {number(to_x)},{number(to_y)}"
        x, y = to_x, to_y
        if name != path[-1]:  # straight through the waypoint's column
            x += BOX_WIDTH
            curve += f" L{number(x)},{number(y)}"
    return element("path", element("title", edge.role), class_="edge", d=curve)


def _box(vertex: _Vertex, x: float, middle: float) -> Markup:
    y = middle - BOX_HEIGHT / 2
    node = vertex.node
    if node is None:
        stage, name, title = "missing", "not found", f"no manifest has the digest {vertex.digest}"
    else:
        stage, name = node.stage, node.name
        # The page is for sending: it tells the path below the project, not the machine's.
        path = node.path.absolute().relative_to(results_root(node.path).parent).as_posix()
        title = f"{stage} {name}\nmanifest {node.digest}\ntree {node.tree}\n{path}"
    label = name if len(name) <= LABEL_CHARACTERS else f"{name[: LABEL_CHARACTERS - 1]}…"
    return element(
        "g",
        element("title", title),
        element("rect", x=x, y=y, width=BOX_WIDTH, height=BOX_HEIGHT, rx=6),
        element("text", stage, class_="stage", x=x + 10, y=y + 16),
        element("text", label, class_="label", x=x + 10, y=y + 31),
        element("text", short(vertex.digest), class_="digest", x=x + 10, y=y + 45),
        class_="box" if node else "box missing",
    )
