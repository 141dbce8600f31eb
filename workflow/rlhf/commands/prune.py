"""``rlhf prune``: resume states that are no longer needed."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.catalog import RULES
from rlhf.core.files import read_json
from rlhf.core.user_paths import path_argument, require_folder
from rlhf.errors import IntegrityError
from rlhf.paths import RESULTS, STATE
from rlhf.provenance.manifest import MANIFEST
from rlhf.provenance.whole import read_whole_manifest

IDENTITY = ("config", "code", "image", "parents")


@dataclass(frozen=True)
class State:
    """One folder of saved states.

    Attributes:
        folder: ``state/<stage>/<name>/<fingerprint>``.
        size: bytes in it.
        verdict: ``finished``, ``superseded`` (the artifact is complete, but was made from
            something else) or ``unfinished``.
    """

    folder: Path
    size: int
    verdict: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to delete."""
    parser.add_argument("--yes", action="store_true", help="delete them")
    parser.add_argument(
        "--superseded",
        action="store_true",
        help="also states of another configuration, code or parents than the artifact's",
    )
    parser.add_argument("--state", type=path_argument, default=STATE, help="default: state/")
    parser.add_argument("--results", type=path_argument, default=RESULTS, help="default: results/")


def run(args: argparse.Namespace) -> int:
    """List the states of complete artifacts, with sizes; delete them on demand."""
    for folder, default in ((args.state, STATE), (args.results, RESULTS)):
        require_folder(folder, default)
    doomed = {"finished", "superseded"} if args.superseded else {"finished"}
    chosen = 0
    for state in find_states(args.state, args.results):
        if state.verdict in doomed:
            chosen += state.size
            if args.yes:
                shutil.rmtree(state.folder)
            what = "deleted" if args.yes else state.verdict
        else:
            what = f"kept: {state.verdict}"
        print(f"{_size(state.size):>9}  {state.folder}  ({what})")
    if args.yes:
        print(f"{_size(chosen)} deleted")
    elif chosen:
        print(f"{_size(chosen)} can go: `rlhf prune --yes` deletes them")
    else:
        print("nothing to prune")
    return 0


def find_states(root: Path, results: Path) -> Iterator[State]:
    """All states below ``root``, judged by the artifacts in ``results``."""
    for folder in sorted(path for path in root.glob("*/*/*") if _is_folder(path)):
        stage, name = folder.parts[-3], folder.parts[-2]
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        artifacts = RULES[stage].folder if stage in RULES else stage
        yield State(folder, size, _judge(folder, results / artifacts / name))


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _judge(folder: Path, artifact: Path) -> str:
    try:
        manifest = read_whole_manifest(artifact / MANIFEST)
        identity: dict[str, Any] = read_json(folder / "identity.json")
    except (IntegrityError, OSError, ValueError):
        return "unfinished"
    if not isinstance(identity, dict):
        return "unfinished"
    same = all(identity.get(part) == manifest[part] for part in IDENTITY)
    facts = manifest["facts"]
    same = same and identity.get("threads") == facts.get("threads")
    return "finished" if same else "superseded"


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
