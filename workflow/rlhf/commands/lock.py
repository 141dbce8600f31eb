"""``rlhf lock``: write down what revisions and addresses are now; or say what has moved."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rlhf.core.user_paths import path_argument
from rlhf.errors import RlhfError
from rlhf.sources.locks import DEFAULT, Entry, Lock, identity, is_downloaded, lock_path

if TYPE_CHECKING:
    from rlhf.config.schema import Config

SHOWN = 5  # files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to lock, or whether to look only."""
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="models and datasets; default: all"
    )
    parser.add_argument(
        "--configfile",
        action="append",
        type=path_argument,
        metavar="FILE",
        help=f"default: {DEFAULT}. Given again, later ones add to earlier ones, and the lock "
        "is beside the last",
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit code 1 if something has moved"
    )


def run(args: argparse.Namespace) -> int:
    """Lock, or check: a line for each model and dataset that is downloaded."""
    from rlhf.config.load import load_config_file

    files = args.configfile or [DEFAULT]
    config, lock = load_config_file(*files), Lock(files)
    sources = dict(_sources(config))
    _check_names(args.names, config, sources)
    entries: dict[str, dict[str, Entry]] = {"models": {}, "datasets": {}}
    moved, failed = 0, 0
    for (section, name), values in sources.items():
        old = lock.entries[section].get(name)
        new = old
        if not args.names or name in args.names:
            try:
                new = _resolve(section, name, values)
            except RlhfError as error:
                print(f"{section}.{name}: not resolved\n" + textwrap.indent(str(error), "  "))
                failed += 1
            else:
                moved += new != old
                print(f"{section}.{name}: {_news(old, new)}")
        if new is not None:
            entries[section][name] = new
    for section, locked in lock.entries.items():
        for name in locked:
            if (section, name) not in sources:
                moved += 1
                print(f"{section}.{name}: locked, but nothing is downloaded for it")
    path = lock_path(files[-1])
    if not sources and not moved:
        print("nothing is downloaded, so there is nothing to lock")
    elif args.check:
        print(f"{path}: {f'{moved} of it moved' if moved else 'nothing has moved'}")
    elif moved or not path.is_file():
        print(f"{lock.write(entries)}: written")
    else:
        print(f"{path}: as it was")
    return 2 if failed else int(args.check and moved > 0)


def _sources(config: Config) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    """Section and name → slice of every model and dataset that is downloaded."""
    for section, named in (("models", config.models), ("datasets", config.datasets)):
        for name, one in named.items():
            values = one.model_dump(mode="json", exclude_none=True)
            if is_downloaded(values.get("source") or {}):
                yield (section, name), values


def _check_names(names: list[str], config: Config, sources: dict[tuple[str, str], Any]) -> None:
    from rlhf.config.problems import suggest

    known = {name for _, name in sources}
    for name in names:
        if name in known:
            continue
        if name in config.models or name in config.datasets:
            raise RlhfError(
                f"{name} is not downloaded: there is nothing to lock.",
                expected="a model or dataset with `source.hub` or `source.url`",
                hint="a local file counts by its content; a Python package by its version",
            )
        raise RlhfError(
            f"The configuration has no model or dataset {name!r}.", hint=suggest(name, known)
        )


def _resolve(section: str, name: str, values: dict[str, Any]) -> Entry:
    """What is there now; files whose digest nobody knows are downloaded."""
    from rlhf.sources import addresses as urls
    from rlhf.sources import hub
    from rlhf.sources.base_models.repository import wanted

    source, where = values["source"], f"{section}.{name}"
    kept = {key: value for key, value in identity(source).items() if value is not None}
    if "url" in source:
        made = urls.download(urls.read_addresses(source["url"]), where)
        return {**kept, "files": dict(made.files)}
    if section == "models":
        patterns, ignored = wanted(values["trust_remote_code"])
        kind = "model"
    else:
        patterns, ignored, kind = values.get("files") or ["*"], [], "dataset"
    repository = hub.Repository(source["hub"], source["revision"], where, kind)
    commit, files = hub.resolve(repository, patterns, ignored)
    if not files:
        raise RlhfError(
            f"No file of the repository matches {', '.join(map(repr, patterns))}.",
            where=f"{where}: {source['hub']} at {source['revision']}",
            hint="look at the repository's files and correct `files`",
        )
    return {**kept, "commit": commit, "files": files}


def _news(old: Entry | None, new: Entry) -> str:
    """What is locked, or in what it differs from what was."""
    size = sum(one["size"] for one in new["files"].values())
    amount = f"{len(new['files'])} files, {size / 1e6:,.1f} MB"
    now = f"{new['hub']} at {new['commit']}" if "hub" in new else ", ".join(new["url"])
    if old is None:
        return f"new: {now}; {amount}"
    if old == new:
        return f"unchanged: {now}"
    before = f"{old['hub']} at {old['commit']}" if "hub" in old else ", ".join(old.get("url", ()))
    changes = [f"{before} → {now}"] if before != now else []
    changes += _file_news(old["files"], new["files"])
    return f"moved: {'; '.join(changes) or 'its revision is written in another way'}"


def _file_news(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    both = old.keys() & new.keys()
    groups = {
        "changed": [name for name in both if old[name] != new[name]],
        "added": new.keys() - old.keys(),
        "gone": old.keys() - new.keys(),
    }
    for what, names in groups.items():
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            yield f"{what}: {', '.join(sorted(names)[:SHOWN])}{more}"
