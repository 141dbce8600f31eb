"""``rlhf config check [FILE…]`` and ``rlhf config write``."""

from __future__ import annotations

import argparse
from pathlib import Path

from rlhf.runtime.paths import path_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Two commands: check and write."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="check files: unknown keys, types, names")
    check.add_argument(
        "files",
        nargs="*",
        type=path_argument,
        default=[Path("config/config.yaml")],
        metavar="FILE",
        help="later ones add to earlier ones, as with `snakemake --configfile`",
    )
    check.set_defaults(act=_check)
    write = actions.add_parser("write", help="write schema.json and README.md again")
    write.add_argument("folder", nargs="?", type=path_argument, default=Path("config"))
    write.set_defaults(act=_write)


def run(args: argparse.Namespace) -> int:
    """Check or write."""
    return args.act(args)


def _check(args: argparse.Namespace) -> int:
    from rlhf.config import NAMED, load_config_file
    from rlhf.data.formats import Source

    config = load_config_file(*args.files)
    for name, dataset in config.datasets.items():  # formats know their own options
        Source(str(dataset.format), dataset.path or "", dataset.options, dataset=name)
    counts = {section: len(getattr(config, section)) for section in NAMED}
    found = ", ".join(f"{section} {count}" for section, count in counts.items() if count)
    print(f"{', '.join(map(str, args.files))}: valid ({found})")
    return 0


def _write(args: argparse.Namespace) -> int:
    from rlhf.config.reference import write
    from rlhf.errors import RlhfError

    if not args.folder.is_dir():
        raise RlhfError(
            "There is no such folder.", where=args.folder, hint="run this in the repository's root"
        )
    for path in write(args.folder):
        print(path)
    return 0
