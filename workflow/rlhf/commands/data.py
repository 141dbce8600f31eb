"""``rlhf data …``: datasets, and what runs draw from them."""

from __future__ import annotations

import argparse

from rlhf.commands import mixture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One action each."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    mixture.add_actions(actions)


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    return args.act(args)
