"""All that an artifact came from, found by walking its manifests' parents back.

Manifests name parents by the sha256 of the parent's ``manifest.json``, never by path, so lineage
survives moving the results folder and can't mistake a rebuilt parent for the one that was used.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlhf.core.digest import digest_file
from rlhf.core.files import read_json
from rlhf.paths import RESULTS
from rlhf.provenance.manifest import MANIFEST, RUN, read_manifest


@dataclass(frozen=True)
class Node:
    """One artifact.

    Attributes:
        path: its manifest.
        stage: stage that made it.
        name: name that the user gave to it.
        digest: sha256 of the manifest file, by which children name it.
        tree: digest of all its output files.
        code: digest of the code that made it.
        image: identity of the container image, or ``""``.
        config_digest: digest of the stage's configuration.
        seconds: wall time of the stage from ``run.json``, or None where that file is gone.
    """

    path: Path
    stage: str
    name: str
    digest: str
    tree: str
    code: str
    image: str
    config_digest: str
    seconds: float | None


@dataclass(frozen=True)
class Edge:
    """``child`` was made from ``parent`` (both manifest digests) in the given role."""

    parent: str
    child: str
    role: str


@dataclass(frozen=True)
class Lineage:
    """Artifacts, ancestors first, and how they hang together.

    Attributes:
        nodes: artifacts found, parents before children.
        edges: who was made from whom; a missing parent has no edge.
        missing: edges whose parent no manifest under the root matches: it was deleted, or built
            anew since (then the child is out of date), or is no artifact of this project.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    missing: tuple[Edge, ...]

    def as_dict(self) -> dict[str, Any]:
        """Nodes, edges and missing parents, ready for JSON."""
        return {
            "nodes": [asdict(node) | {"path": node.path.as_posix()} for node in self.nodes],
            "edges": [asdict(edge) for edge in self.edges],
            "missing": [asdict(edge) for edge in self.missing],
        }


def results_root(manifest: str | Path) -> Path:
    """The folder that holds all artifacts: the nearest ``results`` above a manifest.

    A results folder of another name is taken to be laid out ``<stage>/<name>/manifest.json``.
    """
    path = Path(manifest).absolute()
    for folder in path.parents:
        if folder.name == RESULTS.name:
            return folder
    return path.parents[2]


def index_manifests(root: str | Path) -> dict[str, Path]:
    """Digest → path of every ``manifest.json`` below ``root``; the first path wins a tie."""
    index: dict[str, Path] = {}
    for path in sorted(Path(root).rglob(MANIFEST)):
        index.setdefault(digest_file(path), path)
    return index


def trace(manifests: str | Path | Iterable[str | Path], root: str | Path | None = None) -> Lineage:
    """Walk back from one or more artifacts over all their ancestors.

    Args:
        manifests: path(s) of ``manifest.json`` files.
        root: folder to search for parents; by default each manifest's own results folder.

    Raises:
        IntegrityError: a manifest is absent or damaged.
    """
    tips = [Path(manifests)] if isinstance(manifests, str | Path) else [Path(m) for m in manifests]
    roots = {Path(root)} if root is not None else {results_root(path) for path in tips}
    index: dict[str, Path] = {}
    for folder in sorted(roots):
        index = index_manifests(folder) | index

    nodes: dict[str, Node] = {}
    edges: list[Edge] = []
    missing: list[Edge] = []

    def visit(path: Path, digest: str) -> None:
        if digest in nodes:
            return
        manifest = read_manifest(path)
        for role, parent in sorted(manifest["parents"].items()):
            edge = Edge(parent, digest, role)
            if parent in index:
                edges.append(edge)
                visit(index[parent], parent)
            else:
                missing.append(edge)
        nodes[digest] = _node(path, digest, manifest)

    for tip in tips:
        read_manifest(tip)  # an absent file is explained here, before it is digested
        visit(tip, digest_file(tip))
    return Lineage(tuple(nodes.values()), tuple(edges), tuple(missing))


def _node(path: Path, digest: str, manifest: dict[str, Any]) -> Node:
    return Node(
        path=path,
        stage=manifest["stage"],
        name=manifest["name"],
        digest=digest,
        tree=manifest["tree"],
        code=manifest["code"],
        image=manifest["image"],
        config_digest=manifest["config_digest"],
        seconds=_seconds(path.parent / RUN),
    )


def _seconds(run: Path) -> float | None:
    try:
        return float(read_json(run)["seconds"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # run.json is a courtesy: losing it must not lose the lineage
