"""``rlhf verify [PATH…]``: are all files still what their manifests say?"""

from __future__ import annotations

import argparse
from pathlib import Path

from rlhf.errors import IntegrityError
from rlhf.provenance.manifest import MANIFEST, verify
from rlhf.provenance.whole import read_whole_manifest
from rlhf.runtime.paths import path_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Folders or manifests."""
    parser.add_argument(
        "paths",
        nargs="*",
        type=path_argument,
        default=[Path("results")],
        metavar="PATH",
        help="folder of one or many artifacts, or a manifest; results/ if absent",
    )


def run(args: argparse.Namespace) -> int:
    """Name every missing, resized or changed file; 1 if there is any."""
    manifests = sorted({found for path in args.paths for found in _manifests(path)})
    problems: list[str] = []
    files = 0
    for path in manifests:
        try:
            files += len(read_whole_manifest(path)["files"])
            found = verify(path)
        except IntegrityError as error:
            found = [f"{path}: {error.what}"]
        problems += found
    for problem in problems:
        print(problem)
    if problems:
        print(f"{len(manifests)} artifacts: {len(problems)} problems")
        return 1
    print(f"{len(manifests)} artifacts, {files} files: all as their manifests say")
    return 0


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
