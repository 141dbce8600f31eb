"""``rlhf config check [FILE…]``, ``rlhf config show [FILE…]`` and ``rlhf config write``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf.core.user_paths import path_argument

if TYPE_CHECKING:
    from rlhf.core.documents import Keys, Place

TEXTS = ("text", "a list", "keys and values")  # what options may expect that holds text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Three commands: check, show and write."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="check files: unknown keys, types, names")
    show = actions.add_parser("show", help="print all values: defaults and presets written out")
    show.add_argument(
        "--run", dest="entry", metavar="SECTION.NAME", help="of one entry, such as ppo.final"
    )
    for action, act in ((check, _check), (show, _show)):
        action.add_argument(
            "files",
            nargs="*",
            type=path_argument,
            default=[Path("config/config.yaml")],
            metavar="FILE",
            help="later ones add to earlier ones, as with `snakemake --configfile`",
        )
        action.set_defaults(act=act)
    write = actions.add_parser("write", help="write schema.json and README.md again")
    write.add_argument("folder", nargs="?", type=path_argument, default=Path("config"))
    write.set_defaults(act=_write)


def run(args: argparse.Namespace) -> int:
    """Check, show or write."""
    return args.act(args)


def _check(args: argparse.Namespace) -> int:
    from rlhf.catalog import SECTIONS
    from rlhf.config.load import load_config_file, read_sections
    from rlhf.data.formats.source import Source
    from rlhf.errors import ConfigError

    config = load_config_file(*args.files)
    for name, dataset in config.datasets.items():  # formats know their own options
        try:
            Source(str(dataset.format), dataset.path or "", dataset.options, dataset=name)
        except ConfigError as error:
            hint = error.hint
            if hint is None and (error.expected or "").startswith(TEXTS):
                hint = _as_written(str(error.where), read_sections(args.files).places)
            raise ConfigError(
                error.what, where=error.where, expected=error.expected, hint=hint
            ) from None
    counts = {section: len(getattr(config, section)) for section in SECTIONS}
    found = ", ".join(f"{section} {count}" for section, count in counts.items() if count)
    print(f"{', '.join(map(str, args.files))}: valid ({found})")
    return 0


def _show(args: argparse.Namespace) -> int:
    import yaml

    from rlhf.config.load import load_config_file
    from rlhf.config.problems import suggest
    from rlhf.errors import ConfigError

    values = load_config_file(*args.files).model_dump(mode="json")
    if args.entry:
        section, _, name = args.entry.partition(".")
        entries = {
            f"{section}.{name}": entry
            for section, names in values.items()
            if isinstance(names, dict)
            for name, entry in names.items()
        }
        if args.entry not in entries:
            raise ConfigError(
                f"There is no {args.entry}; {suggest(args.entry, entries)}",
                where=", ".join(map(str, args.files)),
                hint="name an entry with its section, such as ppo.final",
            )
        values = {section: {name: entries[args.entry]}}
    print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), end="")
    return 0


def _as_written(key: str, places: Mapping[Keys, Place]) -> str | None:
    """What to write where YAML takes something in an option for something else than text."""
    keys = tuple(key.split("."))
    for one, place in places.items():
        if place.text and one[: len(keys)] == keys:
            return f'if line {place.line} means text, write "{place.text}" in quotes'
    return None


def _write(args: argparse.Namespace) -> int:
    from rlhf.errors import RlhfError
    from rlhf.pages.config_page import write

    if not args.folder.is_dir():
        raise RlhfError(
            "There is no such folder.", where=args.folder, hint="run this in the repository's root"
        )
    for path in write(args.folder):
        print(path)
    return 0
