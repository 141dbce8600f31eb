"""The tables of docs/data.md, from the registry and the formats' docstrings.

``rlhf data write`` writes them; a test keeps them in step.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

from rlhf.config.registry import entries
from rlhf.data.formats import FORMATS, class_of
from rlhf.errors import ConfigError

MARKS = "<!-- {} -->"
DEFAULTS = re.compile(r"``([^`]*)``")


def fill(page: str) -> str:
    """The page with its generated parts made anew; they stand between two marks each.

    Raises:
        ConfigError: a mark is missing.
    """
    for name, text in (("datasets", datasets_table()), ("formats", formats_tables())):
        begin, end = MARKS.format(f"{name}: generated"), MARKS.format(f"end of {name}")
        before, there, rest = page.partition(begin)
        _, ended, after = rest.partition(end)
        if not there or not ended:
            raise ConfigError(
                "The page lacks a mark between which a table is written.",
                expected=f"{begin} and, after it, {end}",
                hint="name docs/data.md, or a copy of it",
            )
        page = f"{before}{begin}\n\n{text}\n{end}{after}"
    return page


def datasets_table() -> str:
    """All datasets: name, views, format, languages, rows, licence, where it comes from."""
    rows = ["| name | views | format | languages | rows | licence | from |", "|---" * 7 + "|"]
    for entry in entries():
        names = [f"`{one}`" for one in (entry.name, *entry.aliases)]
        source = entry.values.get("source", {})
        origin = entry.origin
        if "hub" in source:
            origin = f"[{origin}](https://huggingface.co/datasets/{origin})"
        elif "url" in source:
            origin = f"[file]({origin})"
        else:
            origin = "your own file"
        cells = (
            ", ".join(names),
            ", ".join(entry.views),
            f"`{entry.values['format']}`",
            ", ".join(entry.lang).replace("<", "`<").replace(">", ">`"),
            entry.size,
            entry.licence,
            origin,
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def formats_tables() -> str:
    """All formats: what a row is, and the options."""
    return "\n".join("\n".join(_format(name)) + "\n" for name in sorted(FORMATS))


def _format(name: str) -> Iterator[str]:
    factory: Any = class_of(name)
    about, options = _parts(inspect.getdoc(factory) or "")
    yield f"### `{name}`\n"
    yield f"{about}\n"
    parameters = inspect.signature(factory).parameters
    if options:
        yield "| option | default | |"
        yield "|---|---|---|"
    for option, text in options.items():
        default = parameters[option].default
        if default is inspect.Parameter.empty:
            shown = "**required**"
        elif default is None:
            shown = ""
        else:
            shown = f"`{json.dumps(default, ensure_ascii=False)}`".replace("|", "\\|")
        yield f"| `{option}` | {shown} | {text} |"


def options_of(name: str) -> dict[str, str]:
    """What the docstring of a format says of each of its options."""
    return _parts(inspect.getdoc(class_of(name)) or "")[1]


# Columns that change what a row means → options that may read them, besides that of their name.
SPEAKING = {
    "system": ("system",),
    "system_prompt": ("system",),
    "history": (),
    "context": ("prefix",),
    "input": (),
    "weight": (),
    "label": ("choice",),
    "labels": ("label", "choice"),
    "score": ("scores",),
    "scores": ("score",),
    "rank": (),
    "tools": (),
    "reasoning_content": (),
    "thinking": (),
    "images": (),
    "lang": (),
    "language": ("lang",),
}


def advice(format: str, column: str) -> str:
    """What to do with a column that a format does not read; empty if it says little.

    An option is named only if it takes the name of a column.
    """
    name = column.split(".")[-1].lower()
    if name not in SPEAKING:
        return ""
    options = options_of(format)
    for option in (name, *SPEAKING[name]):
        if options.get(option, "").startswith("column"):
            return f"`options.{option}: {column}` reads it" if "[" not in column else ""
    return f"it may change what a row means, and no option of `{format}` reads it"


def _parts(doc: str) -> tuple[str, dict[str, str]]:
    """What a docstring says before its arguments, and of each argument but ``faults``."""
    about, _, listed = doc.partition("Args:\n")
    options: dict[str, str] = {}
    for line in listed.splitlines():
        if match := re.fullmatch(r"    (\w+): (.*)", line):
            options[match[1]] = match[2]
        elif line.strip() and options:
            last = next(reversed(options))
            options[last] += " " + line.strip()
    options.pop("faults", None)
    marked = {key: _marked(text).removesuffix(".") for key, text in options.items()}
    return _marked(" ".join(about.split())), marked


def _marked(text: str) -> str:
    return DEFAULTS.sub(r"`\1`", text).replace("|", "\\|")
