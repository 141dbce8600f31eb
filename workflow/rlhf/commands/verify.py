"""``rlhf verify [PATH…]``: are files still what their manifests say, and all weights finite?"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from rlhf.core.user_paths import path_argument
from rlhf.errors import IntegrityError
from rlhf.paths import RESULTS
from rlhf.provenance.bases import bases
from rlhf.provenance.manifest import MANIFEST, verify
from rlhf.provenance.weights import SUFFIX, non_finite
from rlhf.provenance.whole import read_whole_manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Folders or manifests."""
    parser.add_argument(
        "paths",
        nargs="*",
        type=path_argument,
        default=[RESULTS],
        metavar="PATH",
        help="folder of one or many artifacts, or a manifest; results/ if absent",
    )


def run(args: argparse.Namespace) -> int:
    """Name every missing, resized or changed file, and weights that are not finite; 1 if any."""
    manifests = sorted({found for path in args.paths for found in _manifests(path)})
    problems: list[str] = []
    files, without = 0, []
    for path in manifests:
        try:
            listed = read_whole_manifest(path)["files"]
            found = verify(path) or list(_weights(path.parent, listed))
            list(bases(path.parent / "model"))
        except IntegrityError as error:
            found = [f"{path}: {error.what}"]
        else:
            files += len(listed)
            without += [] if listed else [path]
        problems += found
    for problem in problems:
        print(problem)
    for path in without:
        print(f"{path}: lists no files, so nothing beside it was compared")
    if problems:
        print(f"{len(manifests)} artifacts: {len(problems)} problems")
        return 1
    compared = len(manifests) - len(without)
    if compared:
        print(f"{compared} artifacts, {files} files: all as their manifests say")
    return 0


def _weights(folder: Path, names: dict[str, object]) -> Iterator[str]:
    """A line for each tensor that holds NaN or infinity."""
    for name in names:
        if name.endswith(SUFFIX):
            path = folder / name
            try:
                for tensor, count in non_finite(path):
                    yield f"{path}: {tensor} holds {count} numbers that are NaN or infinite"
            except ValueError as error:
                yield f"{path}: can't be read: {error}"


def _manifests(path: Path) -> list[Path]:
    found = [path] if path.is_file() else sorted(path.rglob(MANIFEST))
    if not found:
        raise IntegrityError(
            "There are no artifacts here.",
            where=path,
            expected=f"a folder with a {MANIFEST} in it or below it",
            hint="run snakemake: it builds what is missing",
        )
    return found
