"""The registry of datasets, ``config/datasets.yaml``: by names that people know, ready to use.

A name may hold parameters: the entry ``wmt2019_<src>-<tgt>`` is found under ``wmt2019_zh-en``,
and ``<src>`` and ``<tgt>`` in its values become ``zh`` and ``en``.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.core.documents import read_document
from rlhf.errors import ConfigError

REGISTRY = Path(__file__).resolve().parents[3] / "config" / "datasets.yaml"
# What a dataset of the configuration takes from an entry; the rest is for people.
TAKEN = ("source", "path", "files", "format", "options")
_PARAMETER = re.compile(r"<(\w+)>")


@dataclass(frozen=True, slots=True)
class Entry:
    """A dataset of the registry.

    Attributes:
        name: its name; with parameters in angle brackets, or filled in.
        values: ``source`` ({hub, revision} or {url}) or ``path``, ``files``, ``format``,
            ``options``.
        views: what its rows serve: ``conversation``, ``preference``, ``prompt``.
        licence: as its owner states it.
        size: about how many rows it has, as text.
        lang: languages.
        aliases: other names.
        about: one line.
    """

    name: str
    values: dict[str, Any]
    views: tuple[str, ...]
    licence: str
    size: str
    lang: tuple[str, ...]
    aliases: tuple[str, ...]
    about: str

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of its parameters."""
        return tuple(_PARAMETER.findall(self.name))

    @property
    def origin(self) -> str:
        """Where it comes from, for people."""
        source = self.values.get("source", {})
        url = source.get("url")
        first = url[0] if isinstance(url, list) else url
        return str(source.get("hub") or first or self.values.get("path", ""))


@functools.cache
def entries() -> tuple[Entry, ...]:
    """All datasets of the registry, in its order."""
    listed = read_document(REGISTRY, "registry of datasets").values
    return tuple(
        Entry(
            name,
            {key: values[key] for key in TAKEN if key in values},
            tuple(values["views"]),
            values["licence"],
            str(values["size"]),
            tuple(values["lang"]),
            tuple(values.get("aliases", ())),
            values["about"],
        )
        for name, values in listed.items()
    )


def find(name: str) -> Entry:
    """The dataset of that name, its parameters filled in (or not, if the name has none in it).

    Names are an entry's own, its aliases and its id on the hub, in any case of letters.

    Raises:
        ConfigError: there is none; it names those that are close.
    """
    wanted = name.casefold()
    for entry in entries():
        if wanted in (one.casefold() for one in (entry.name, *entry.aliases)):
            return entry
    for entry in entries():
        if wanted == str(entry.values.get("source", {}).get("hub", "")).casefold():
            return entry
    for entry in entries():
        if entry.parameters and (match := _pattern(entry.name).fullmatch(wanted)):
            return _filled(entry, name, match.groupdict())
    raise ConfigError(
        f"The registry has no dataset {name!r}.",
        where="config/datasets.yaml",
        expected="a name that `rlhf data list` shows",
        hint=_advice(name),
    )


def resolve_datasets(datasets: Mapping[Any, Any]) -> tuple[dict[Any, Any], list[str]]:
    """Put what the registry says into the entries of a configuration that name a dataset of it.

    Args:
        datasets: the section ``datasets`` as it stands in the file.

    Returns:
        The section, and what is wrong with it, one line for each problem.
    """
    resolved: dict[Any, Any] = {}
    problems = []
    for name, given in datasets.items():
        own = isinstance(given, Mapping) and ("path" in given or "source" in given)
        if not isinstance(given, Mapping) or not isinstance(name, str):
            resolved[name] = given
            continue
        wanted = given.get("registry")
        if wanted is not None and not isinstance(wanted, str):
            resolved[name] = given  # what is wrong with it will be said
            continue
        if wanted is None and own:
            resolved[name] = given
            continue
        if wanted is None and set(given) & {"format", "files"} and not is_known(name):
            resolved[name] = given  # its `path` is missing, and that is what will be said
            continue
        try:
            entry = find(name if wanted is None else wanted)
        except ConfigError as error:
            key = f"datasets.{name}" + ("" if wanted is None else ".registry")
            problems.append(f"{key}: {error.what.removesuffix('.')}; {error.hint}")
            continue
        if entry.parameters:
            parts = ", ".join(f"<{one}>" for one in entry.parameters)
            problems.append(f"datasets.{name}.registry: put values in the place of {parts}")
            continue
        values = {key: value for key, value in entry.values.items() if key not in ("options",)}
        if own:  # the same rows from elsewhere: a mirror, a copy on disk
            values = {k: v for k, v in values.items() if k not in ("source", "path", "files")}
        options = given.get("options", {})
        if isinstance(options, Mapping):
            options = {**entry.values.get("options", {}), **options}
        resolved[name] = {**values, **given, "registry": entry.name, "options": options}
    return resolved, problems


def is_known(name: str) -> bool:
    """Whether the registry has a dataset of that name."""
    try:
        find(name)
    except ConfigError:
        return False
    return True


def _pattern(name: str) -> re.Pattern[str]:
    parts = _PARAMETER.split(name.casefold())
    texts = [re.escape(part) if i % 2 == 0 else f"(?P<{part}>\\w+)" for i, part in enumerate(parts)]
    return re.compile("".join(texts))


def _filled(entry: Entry, name: str, parameters: dict[str, str]) -> Entry:
    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: fill(one) for key, one in value.items()}
        if isinstance(value, list):
            return [fill(one) for one in value]
        if isinstance(value, str):
            return re.sub(
                r"<(\w+)>", lambda found: parameters.get(found[1].casefold(), found[0]), value
            )
        return value

    return Entry(
        name.casefold(),
        fill(entry.values),
        entry.views,
        entry.licence,
        entry.size,
        tuple(fill(list(entry.lang))),
        (),
        fill(entry.about),
    )


def _advice(name: str) -> str:
    names = {one.casefold(): one for one in _names()}
    close = difflib.get_close_matches(name.casefold(), names, n=3, cutoff=0.6)
    # `wmt2019_zh_en`: what stands before the parameters is right.
    close += [
        one
        for folded, one in names.items()
        if "<" in one
        and name.casefold().startswith(folded.partition("<")[0])
        and folded not in close
    ]
    if close:
        return "did you mean " + " or ".join(f"'{names.get(one, one)}'" for one in close) + "?"
    return "`rlhf data list` shows all names"


def _names() -> Iterator[str]:
    for entry in entries():
        yield from (entry.name, *entry.aliases)
        if hub := entry.values.get("source", {}).get("hub"):
            yield hub
