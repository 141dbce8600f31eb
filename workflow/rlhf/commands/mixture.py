"""``rlhf data stats | duplicates | phrases``: what is in the datasets, and what runs draw."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf import paths
from rlhf.commands.arguments import number, whole
from rlhf.core.user_paths import path_argument

if TYPE_CHECKING:
    from rlhf.config.schema import Config

CONFIG = Path("config/config.yaml")


def add_actions(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the three actions to those of ``rlhf data``."""
    stats = actions.add_parser(
        "stats", help="rows, tokens, lengths and shares of each dataset and of each run's mixture"
    )
    _add_common(stats, "run", "run, such as sft.chat; all of the configuration if absent")
    stats.add_argument("--plot", type=path_argument, metavar="SVG", help="also draw them")
    stats.add_argument(
        "--counts",
        type=path_argument,
        metavar="FOLDER",
        help="also write rows before tokenization as Open-Assistant's check_dataset_counts does: "
        "one CSV for each view",
    )
    stats.set_defaults(act=_stats)

    duplicates = actions.add_parser(
        "duplicates", help="repeated rows, and prompts that stages and splits share"
    )
    _add_common(duplicates, "dataset", "dataset; all of the configuration if absent")
    duplicates.add_argument("--exact", action="store_true", help="equal texts alone, not near ones")
    duplicates.add_argument(
        "--threshold", type=number(0, 1), default=0.8, help="least similarity; 0.8"
    )
    duplicates.add_argument("--words", type=whole(1), default=5, help="length of word sequences; 5")
    duplicates.set_defaults(act=_duplicates)

    phrases = actions.add_parser(
        "phrases", help="rows with refusals, left-over references and other phrases"
    )
    _add_common(phrases, "dataset", "dataset; all of the configuration if absent")
    phrases.add_argument(
        "--phrases",
        type=path_argument,
        metavar="FILE",
        help="one phrase a line, instead of the usual ones",
    )
    phrases.add_argument(
        "--examples", type=whole(0), default=1, help="places shown for each phrase; 1"
    )
    phrases.set_defaults(act=_phrases)


def _add_common(parser: argparse.ArgumentParser, what: str, about: str) -> None:
    parser.add_argument("names", nargs="*", metavar=what.upper(), help=about)
    parser.add_argument(
        "--configfile", nargs="+", type=path_argument, default=[CONFIG], metavar="FILE"
    )
    parser.add_argument("--results", type=path_argument, default=paths.RESULTS, metavar="FOLDER")
    parser.add_argument(
        "--json", type=path_argument, metavar="FILE", help="also write all of it as JSON"
    )


def _stats(args: argparse.Namespace) -> int:
    from rlhf.catalog import DRAWING
    from rlhf.core.files import write_atomic
    from rlhf.reporting.mixtures import describe, write_counts
    from rlhf.reporting.mixtures_shown import draw, tables

    config = _load(args)
    runs = [f"{section}.{name}" for section in DRAWING for name in getattr(config, section)]
    found = describe(config, args.results, _chosen(args.names, runs, "run"))
    print(tables(found))
    _write_json(args, found)
    if args.plot:
        write_atomic(args.plot, draw(found))
        print(args.plot)
    if args.counts:
        for path in write_counts(args.counts, found):
            print(path)
    return 0


def _duplicates(args: argparse.Namespace) -> int:
    from rlhf.data.duplicates import Method, survey
    from rlhf.reporting.mixtures_shown import duplicates_tables

    method = Method(not args.exact, args.threshold, args.words)
    found = survey(_rows_folders(args), method)
    print(duplicates_tables(found))
    _write_json(args, found)
    return 0


def _phrases(args: argparse.Namespace) -> int:
    from rlhf.core.documents import read_text
    from rlhf.data.phrases import PHRASES, count
    from rlhf.reporting.mixtures_shown import phrases_table

    phrases = read_text(args.phrases, "file of phrases").splitlines() if args.phrases else PHRASES
    found = count(_rows_folders(args), [one for one in phrases if one.strip()], args.examples)
    print(phrases_table(found))
    _write_json(args, found)
    return 0


def _load(args: argparse.Namespace) -> Config:
    from rlhf.config.load import load_config_file

    return load_config_file(*args.configfile)


def _rows_folders(args: argparse.Namespace) -> dict[str, Path]:
    """Dataset → folder of its rows.

    Raises:
        IntegrityError: a dataset has not been fetched.
    """
    from rlhf.errors import IntegrityError

    names = _chosen(args.names, list(_load(args).datasets), "dataset")
    folders = {name: paths.dataset(name, args.results) / "rows" for name in names}
    for name, folder in folders.items():
        if not folder.is_dir():
            raise IntegrityError(
                f"The dataset {name!r} has not been fetched.",
                where=folder,
                hint=f"snakemake --profile local {folder.parent}/manifest.json",
            )
    return folders


def _chosen(names: list[str], known: list[str], what: str) -> list[str]:
    """The names that were asked for, all that are known if none was.

    Raises:
        ConfigError: the configuration has no such name.
    """
    from rlhf.config.problems import suggest
    from rlhf.errors import ConfigError

    for name in names:
        if name not in known:
            raise ConfigError(
                f"The configuration has no {what} {name!r}.", hint=suggest(name, known)
            )
    return names or known


def _write_json(args: argparse.Namespace, value: Any) -> None:
    from rlhf.core.files import write_json

    if args.json:
        write_json(args.json, value)
        print(args.json)
