"""``rlhf …``: the commands for people."""

from __future__ import annotations

import argparse
import sys

from rlhf import launch


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(prog="rlhf", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("launch", help="run one stage with the model servers it needs")
    argv = sys.argv[1:] if argv is None else argv
    # `launch` reads its own options: the stage's must pass untouched.
    if argv[:1] == ["launch"]:
        return launch.main(argv[1:])
    parser.parse_args(argv)
    return 0
