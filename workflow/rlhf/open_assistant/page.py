"""The file that is written: what became of Open-Assistant's keys, as comments, and the YAML."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from rlhf.config.schema import Config
from rlhf.open_assistant.dispositions import Dispositions

WIDTH = 98  # of comments


def render(values: dict[str, Any], dispositions: Dispositions, origin: list[str]) -> str:
    """The whole file.

    Args:
        values: the configuration.
        dispositions: what became of the keys.
        origin: lines that say where it comes from.
    """
    comments = [*origin, ""]
    comments += _block("Not carried over:", _lacking(dispositions))
    comments += _block("Assumed:", dispositions.notes)
    comments += _block(
        "Carried over:", (f"{key} → {ours}" for key, ours in dispositions.carried.items())
    )
    comments += _block(
        "Without a meaning here:",
        (f"{', '.join(keys)}: {why}" for why, keys in dispositions.ignored.items()),
    )
    while comments[-1] == "":
        comments.pop()
    head = "".join(f"# {line}".rstrip() + "\n" for line in comments)
    ordered = {key: values[key] for key in Config.model_fields if values.get(key)}
    body = yaml.dump(ordered, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH)
    return f"{head}\n{body}"


def summary(dispositions: Dispositions) -> list[str]:
    """Lines for the terminal: a warning for each key that could not be carried over, and counts."""
    lines = [f"warning: not carried over: {line}" for line in _lacking(dispositions)]
    lines += [f"assumed: {note}" for note in dispositions.notes]
    ignored = sum(map(len, dispositions.ignored.values()))
    counts = f"{len(dispositions.carried)} carried over, {len(dispositions.lacking)} not"
    return [*lines, f"keys of Open-Assistant: {counts}, {ignored} without a meaning here"]


class _Dumper(yaml.SafeDumper):
    """Lists stand in their key's column, as in all our files, and nothing is an anchor."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


# A commit such as 12…e3… is a number to readers of YAML 1.2, ours among them: it gets quotes.
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _lacking(dispositions: Dispositions) -> Iterator[str]:
    return (f"{key} ({why})" for key, why in dispositions.lacking.items())


def _block(title: str, lines: Iterable[str]) -> list[str]:
    wrapped = [
        part
        for line in lines
        for part in textwrap.wrap(
            line,
            WIDTH,
            initial_indent="  ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    ]
    return [title, *wrapped, ""] if wrapped else []
