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
from rlhf.data.formats.objects import CALLS
from rlhf.data.formats.source import FORMATS, class_of
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


# Columns, by a word of their names, that change what a row means → options that may read them.
SPEAKING = {
    "system": ("system",),
    "history": ("history",),
    "context": ("input", "prefix"),
    "input": ("input",),
    "query": ("input",),
    "weight": ("trained",),
    "train": ("trained",),
    "label": ("label", "choice"),
    "kto": ("label",),
    "accepted": ("label",),
    "feedback": (),
    "selected": (),
    "deleted": (),
    "safe": (),
    "unsafe": (),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "correct": ("label",),
    "correctness": ("label", "scores", "score"),
    "score": ("scores", "score"),
    "rating": ("scores", "score"),
    "reward": ("scores", "score"),
    "rank": ("rank",),
    "winner": ("choice",),
    "preference": ("choice",),
    "tool": (),
    "function": (),
    "reasoning": (),
    "thinking": (),
    "refusal": (),
    "image": (),
    "video": (),
    "audio": (),
    "lang": ("lang",),
    "language": ("lang",),
    "toxic": (),
    "redacted": (),
    "status": (),
}
# Words of columns that other formats read → such a format.
OF_OTHERS = {
    "chosen": "preference",
    "rejected": "preference",
    "preferred": "preference",
    "completion": "preference",
    "desirable": "labelled",
}
ALONE = ("tool", "function", "train")  # words that say little beside others
ASKED = ("context", "input", "query")  # part of what is asked
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


def advice(format: str, column: str) -> str:
    """What to do with a column that a format does not read; empty if it says little.

    An option is named only if it takes the name of a column, or of a key in a list of objects.
    """
    path = column.split("[].")
    name = path[-1].split(".")[-1]
    words = [one.lower() for one in _WORDS.findall(name)]
    words = [one if one in SPEAKING else one.removesuffix("s") for one in words]
    speaking = [one for one in words if one in SPEAKING and (one not in ALONE or words == [one])]
    others = [one for one in words if one in OF_OTHERS]
    if not {*speaking} <= {*others}:  # the score of a chosen reply is a score
        speaking = [one for one in speaking if one not in others]
        others = []
    options = options_of(format)
    if len(path) > 1 and name in CALLS and "tool_calls" in options:
        return "`options.tool_calls: text` reads it"
    if not speaking and not others and "detail" not in words:
        return ""
    begin = "key" if len(path) > 1 else "column"
    of_parts = "detail" in words  # says of parts of a text what the option says of the whole
    for option in (one for word in speaking for one in SPEAKING[word] if not of_parts):
        said = options.get(option, "")
        if option == "label" and "good" not in said and words != ["label"]:
            continue  # the right one of several
        if said.startswith(begin):
            if said.startswith("columns"):
                return f"`options.{option}` reads it, with others"
            how = " as good or bad" if option == "label" and "good" in said else ""
            return f"`options.{option}: {path[-1]}` reads it{how}"
    if others and OF_OTHERS[others[0]] != format:
        return (
            f"it may change what a row means, and no option of `{format}` reads it: "
            f"`format: {OF_OTHERS[others[0]]}` does"
        )
    filled = [one for one, said in options.items() if said.startswith("column or template")]
    if filled and len(path) == 1 and not {*speaking}.isdisjoint(ASKED):
        return (
            "it may change what a row means; a template reads it, such as "
            f'`options.{filled[0]}: "… {{{column}}}"`'
        )
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
