"""What the comparisons with TRL share: command line, worker processes, order of the rows."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from alternate import Contestant, alternate

Item = TypeVar("Item")
Work = Callable[[argparse.Namespace, Path], None]  # options, a folder that goes with the worker


def command_line(
    description: str | None, contestants: Mapping[str, str], default: Sequence[str]
) -> argparse.ArgumentParser:
    """The options that every comparison with TRL has.

    Args:
        description: what the script says of itself.
        contestants: name on the command line → title; those named ``trl…`` need ``--peer``.
        default: the contestants of a plain call.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--peer", type=Path, help="folder that TRL is installed in")
    parser.add_argument("--model", type=Path, required=True, help="plain Hugging Face folder")
    parser.add_argument("--rows", type=Path, required=True, help="rows folder of a dataset")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--micro-batch-tokens", type=int, default=1024, help="ours alone")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=contestants, default=list(default))
    parser.add_argument("--worker", choices=contestants, help=argparse.SUPPRESS)
    return parser


def parse(parser: argparse.ArgumentParser, trl: Work, ours: Work) -> argparse.Namespace:
    """The options; in a worker process do its work and leave."""
    options = parser.parse_args()
    if options.worker:
        work = trl if options.worker.startswith("trl") else ours
        with tempfile.TemporaryDirectory() as scratch:
            work(options, Path(scratch))
        sys.exit(0)
    if options.peer is None and any(name.startswith("trl") for name in options.only):
        parser.error("--peer is needed, or --only with others than TRL")
    return options


def compete(
    options: argparse.Namespace, contestants: Mapping[str, str], extra: Sequence[str] = ()
) -> dict[str, Contestant]:
    """Let the chosen contestants work in turn; their rounds are in what is returned.

    Args:
        options: of ``parse``.
        contestants: name → title.
        extra: arguments of the workers, beside those of this process.
    """
    chosen = {
        name: Contestant(
            contestants[name],
            [*sys.argv[1:], *extra, "--worker", name],
            options.threads,
            options.peer if name.startswith("trl") else None,
        )
        for name in options.only
    }
    alternate(list(chosen.values()), options.rounds)
    return chosen


def shuffled(items: Sequence[Item], count: int, seed: int) -> list[Item]:
    """``count`` of the items, pass after pass, each pass in an order of its own."""
    import numpy as np

    order: list[int] = []
    while len(order) < count:
        order += np.random.default_rng([seed, len(order)]).permutation(len(items)).tolist()
    return [items[i] for i in order[:count]]
