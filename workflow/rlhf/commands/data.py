"""``rlhf data …``: datasets, and what runs draw from them."""

from __future__ import annotations

import argparse
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.catalog import VIEWS
from rlhf.commands import mixture
from rlhf.commands.arguments import whole
from rlhf.core.user_paths import path_argument

if TYPE_CHECKING:
    from rlhf.data.formats.accounts import Account
    from rlhf.data.formats.source import Source

CONFIG = Path("config/config.yaml")
SHOWN = 300  # characters of a text
LISTED = 20  # files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One action each."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="the datasets of the registry")
    listing.add_argument("word", nargs="?", default="", help="only those that this word is in")
    listing.add_argument("--view", choices=VIEWS, help="only those that serve this view")
    listing.set_defaults(act=_list)
    show = actions.add_parser("show", help="one dataset of the registry, and how to use it")
    show.add_argument("name")
    show.set_defaults(act=_show)
    check = actions.add_parser(
        "check", help="read a dataset's files: rows, what is faulty, samples"
    )
    check.add_argument("name", help="a dataset of the configuration or of the registry")
    check.add_argument("--config", type=path_argument, default=CONFIG, metavar="FILE")
    check.add_argument(
        "--path", type=path_argument, help="read this file, folder or glob in place of its own"
    )
    check.add_argument("--rows", type=whole(1), metavar="N", help="stop after N rows; default: all")
    check.set_defaults(act=_check)
    write = actions.add_parser("write", help="write the tables of docs/data.md again")
    write.add_argument("page", nargs="?", type=path_argument, default=Path("docs/data.md"))
    write.set_defaults(act=_write)
    mixture.add_actions(actions)


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    return args.act(args)


def _list(args: argparse.Namespace) -> int:
    from rlhf.config.registry import entries

    word = args.word.casefold()
    found = [
        entry
        for entry in entries()
        if (args.view is None or args.view in entry.views)
        and word in " ".join((entry.name, *entry.aliases, entry.origin, entry.about)).casefold()
    ]
    rows = [("name", "format", "views", "languages", "rows", "licence", "from")]
    rows += [
        (
            entry.name,
            entry.values["format"],
            ",".join(entry.views),
            ",".join(entry.lang),
            entry.size,
            entry.licence,
            entry.origin,
        )
        for entry in found
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
        print("  ".join([*cells, row[-1]]))
    print(f"{len(found)} datasets; `rlhf data show NAME` says more")
    return 0 if found else 1


def _show(args: argparse.Namespace) -> int:
    import yaml

    from rlhf.config.registry import find

    entry = find(args.name)
    facts = {
        "about": entry.about,
        "also called": ", ".join(entry.aliases),
        "views": ", ".join(entry.views),
        "languages": ", ".join(entry.lang),
        "rows": entry.size,
        "licence": entry.licence,
    }
    print(entry.name)
    for key, value in facts.items():
        if value:
            print(f"  {key + ':':<13} {value}")
    if entry.parameters:
        example = entry.name.replace("<src>", "zh").replace("<tgt>", "en")
        print(f"  {'parameters:':<13} {', '.join(entry.parameters)}, as in {example}")
    print("what a configuration takes from here:")
    text = yaml.safe_dump(entry.values, sort_keys=False, allow_unicode=True, width=90)
    print("".join(f"  {line}\n" for line in text.splitlines()), end="")
    print(f"to use it:\n  datasets:\n    {_usage(entry.name)}")
    return 0


def _write(args: argparse.Namespace) -> int:
    from rlhf.core.documents import read_text
    from rlhf.core.files import write_atomic
    from rlhf.errors import RlhfError
    from rlhf.pages.data_page import fill

    if not args.page.is_file():
        raise RlhfError(
            "There is no such page.", where=args.page, hint="run this in the repository's root"
        )
    write_atomic(args.page, fill(read_text(args.page, "page")))
    print(args.page)
    return 0


def _usage(name: str) -> str:
    from rlhf.config.problems import is_name

    return f"{name}: {{}}" if is_name(name) else f"mine: {{registry: {name}}}"


def _check(args: argparse.Namespace) -> int:
    from rlhf.data.formats.source import Source
    from rlhf.data.rows import replies_of, view_of

    values = _values(args.name, args.config)
    path = args.path or values.get("path") or _absent(args.name, values)
    files = values.get("files") if args.path is None else None
    source = Source(values["format"], path, values.get("options"), files, dataset=args.name)
    counts: Counter[str] = Counter()
    samples: dict[str, Any] = {}
    for row in islice(source, args.rows):
        view = view_of(row)
        counts[view] += 1
        samples.setdefault(view, row)
    print(f"{args.name}: {path}, format {values['format']}")
    for view in VIEWS:
        print(f"  {view + ':':<13} {counts[view]}")
    for title in ("dropped", "filtered", "noticed"):
        tally: Counter[str] = getattr(source.faults, title)
        if tally:
            print(f"  {title + ':':<13} {_listed(tally)}")
    _print_files(source)
    _print_unread(values["format"], source.faults.unread)
    for view, row in samples.items():
        print(f"\nfirst {view}, {row.id}:")
        for message in getattr(row, "messages", None) or row.history:
            print(f"  {message.role}: {_short(message.content)}")
        for place, reply in enumerate(replies_of(row), start=1):
            judged = {True: "good", False: "bad", None: place}[getattr(row, "desirable", None)]
            print(f"  {judged}. {_short(reply)}")
    return 0


def _print_files(source: Source) -> None:
    """What became of the rows of each file, and which files are not read."""
    from rlhf.data.formats.accounts import total

    print("\nfiles:")
    for name, account in islice(source.files.items(), LISTED):
        print(f"  {name}: {_said(account)}")
    if len(source.files) > LISTED:
        print(f"  all {len(source.files)} files: {_said(total(source.files.values()))}")
    if source.not_read:
        print("\nfiles that are not read:")
    for name, why in islice(source.not_read.items(), LISTED):
        print(f"  {name}: {why}")
    if len(source.not_read) > LISTED:
        print(f"  and {len(source.not_read) - LISTED} more")


def _said(account: Account) -> str:
    parts = [f"{account.rows} rows", f"{account.used} used"]
    parts += [f"{account.held} held for the end"] if account.held else []
    parts += [f"left out: {_listed(account.left_out)}"] if account.left_out else []
    return ", ".join(parts)


def _print_unread(name: str, unread: Counter[str]) -> None:
    """The columns that are not read; what to do with those that change what a row means."""
    from rlhf.pages.data_page import advice

    if not unread:
        return
    print(f"\ncolumns that `{name}` does not read, and in how many rows they hold something:")
    for column, rows in sorted(unread.items()):
        said = advice(name, column)
        print(f"  {column}: {rows}{f'; {said}' if said else ''}")


def _listed(tally: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(tally.items()))


def _values(name: str, config: Path) -> dict[str, Any]:
    """What the configuration says of a dataset, or else the registry."""
    from rlhf.config.load import load_config_file
    from rlhf.config.registry import find
    from rlhf.errors import RlhfError

    if config.exists():
        declared = load_config_file(config).datasets
        if name in declared:
            return declared[name].model_dump(exclude_none=True)
    elif config != CONFIG:
        raise RlhfError("There is no such configuration file.", where=config)
    return find(name).values


def _absent(name: str, values: dict[str, Any]) -> str:
    from rlhf.errors import DataError

    source = values.get("source", {})
    raise DataError(
        "The dataset is not on this machine.",
        where=f"datasets.{name}.source: {source.get('hub') or source.get('url')}",
        expected="a local file or folder",
        hint="`--path FILE` checks a copy of yours; to download it, name it in a configuration "
        "and run snakemake",
    )


def _short(text: str) -> str:
    text = " ⏎ ".join(text.splitlines())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
