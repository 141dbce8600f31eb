"""``rlhf compare A B``: in what do two artifacts differ?"""

from __future__ import annotations

import argparse
from typing import Any

from rlhf.commands.differences import arrow, changes
from rlhf.core.user_paths import path_argument
from rlhf.provenance.whole import read_whole_manifest

# What made an artifact, then what came out.
SECTIONS = ("config", "code", "image", "parents", "facts", "counts", "metrics")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Two manifests."""
    for name in ("a", "b"):
        parser.add_argument(
            name, type=path_argument, help="a manifest, or the folder that holds it"
        )


def run(args: argparse.Namespace) -> int:
    """Print the differences, section by section."""
    left, right = read_whole_manifest(args.a), read_whole_manifest(args.b)
    for side, path, manifest in (("A", args.a, left), ("B", args.b, right)):
        print(f"{side}: {manifest['stage']} {manifest['name']}  ({path})")
    lines = list(_lines(left, right))
    print("\n".join(lines) if lines else "They were made from the same and came out the same.")
    return 0


def _lines(left: dict[str, Any], right: dict[str, Any]) -> list[str]:
    lines = []
    if left["stage"] != right["stage"]:
        lines.append(f"stage: {left['stage']} → {right['stage']}")
    for section in SECTIONS:
        found = list(changes(left[section], right[section]))
        if not found:
            continue
        lines.append(f"{section}:")
        lines += [f"  {arrow(path, old, new).strip()}" for path, old, new in found]
    if left["tree"] == right["tree"]:
        lines += ["files: the same bytes"] if lines else []
    else:
        names = [
            path.removesuffix(".sha256") for path, *_ in changes(left["files"], right["files"])
        ]
        differing = sorted({name.removesuffix(".size") for name in names})
        lines.append(f"files: {len(differing)} differ: {', '.join(differing)}")
    return lines
