"""Formats that datasets come in.

To add one: write a module with a class like ``messages.Messages``: options are the keyword
arguments of its constructor, ``rows(record)`` turns one row of a file into rows of ours and
reports faults, and ``finish()``, if it has one, gives what has to wait for the last row.
Then name it in ``FORMATS``.

Only the module of the format that is used is imported, and only that one counts as code that a
dataset was made with: a change in one format leaves what came from others as it is.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Protocol, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from rlhf.data.files import find_files, is_glob, root_of
from rlhf.data.formats.faults import Faults
from rlhf.data.formats.records import read_records
from rlhf.data.rows import Row, Rows, texts_of
from rlhf.errors import ConfigError, DataError


class Format(Protocol):
    """Turns the objects of one file into rows.

    Attributes:
        reads: columns that it may read, by their first names; all others are named as unread.
    """

    reads: Collection[str]

    def rows(self, record: dict[str, Any]) -> list[Row]:
        """Rows of one object of the file; faults are reported, not raised."""
        ...


# name → module of this package, and the class in it.
FORMATS = {
    "alpaca": ("questions", "Alpaca"),
    "choices": ("preferences", "MultipleChoice"),
    "comparison": ("preferences", "Comparisons"),
    "dialogue": ("dialogues", "Dialogues"),
    "hh": ("transcripts", "HumanAssistant"),
    "messages": ("messages", "Messages"),
    "oasst": ("oasst", "OpenAssistant"),
    "preference": ("preferences", "Pairs"),
    "qa": ("questions", "Questions"),
    "ranked": ("preferences", "Ranked"),
    "sharegpt": ("messages", "ShareGpt"),
    "summary": ("questions", "Summaries"),
    "text": ("plain", "PlainText"),
    "transcript": ("transcripts", "Transcripts"),
    "translation": ("translations", "Translations"),
}
GENERAL = ("invalid", "field", "exclude")  # options that every format has


def module_of(name: str) -> str:
    """Module that a format is in, for ``digest_code``; that of this package, if there is none."""
    return f"data.formats.{FORMATS[name][0]}" if name in FORMATS else "data.formats"


def class_of(name: str) -> Callable[..., Format]:
    """The class of a format."""
    module, attribute = FORMATS[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)


class Source:
    """The rows of one dataset; iterate over it once.

    Args:
        name: a key of ``FORMATS``.
        path: a file, a folder or a glob; see ``data.files``.
        options: options of the format; ``invalid``: ``error`` (default) or ``drop``; ``field``:
            key of the list of rows, if a JSON file holds one object; ``exclude``: texts, rows
            with one of which are left out, whatever the case of letters.
        files: globs of the files that are read in a folder.
        dataset: its name in the configuration, for messages.

    Attributes:
        faults: what was dropped and filtered so far.

    Raises:
        ConfigError: the format or an option is unknown or has a wrong value.
        DataError: while iterating: a file or (``invalid: error``) a row is faulty, or nothing
            is left of the dataset.
    """

    def __init__(
        self,
        name: str,
        path: str | Path,
        options: dict[str, Any] | None = None,
        files: Sequence[str] | None = None,
        dataset: str = "<name>",
    ) -> None:
        options = dict(options or {})
        _choose(name, FORMATS, "format", dataset)
        factory = class_of(name)
        invalid = options.pop("invalid", "error")
        drop = _choose(invalid, {"error": 0, "drop": 1}, "invalid", dataset)
        self._field = options.pop("field", None)
        self._exclude = options.pop("exclude", None) or []
        parameters = inspect.signature(factory).parameters
        known = [one for one in parameters if one != "faults"]
        for option in options:
            _choose(option, dict.fromkeys([*known, *GENERAL]), "options", dataset)
        self.path, self._files = Path(path), files
        self.faults = Faults(path, drop=bool(drop), dataset=dataset)
        for option in known:
            if parameters[option].default is inspect.Parameter.empty and option not in options:
                raise self.faults.wrong_option(option, None, f"the format {name} needs it")
        if self._field is not None and not isinstance(self._field, str):
            raise self.faults.wrong_option("field", self._field, "text")
        listed = isinstance(self._exclude, list)
        if not listed or not all(isinstance(one, str) and one for one in self._exclude):
            raise self.faults.wrong_option("exclude", self._exclude, "a list of texts")
        self._exclude = [one.casefold() for one in self._exclude]
        _check_types(factory, options, self.faults)
        self._format = factory(self.faults, **options)

    def __iter__(self) -> Iterator[Row]:
        empty = True
        for row in self._rows():
            empty = False
            yield row
        if empty:
            tally = self.faults.dropped + self.faults.filtered
            reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(tally.items()))
            raise DataError(
                f"No row is left of the dataset; {tally.total()} were dropped ({reasons}).",
                where=f"{self.faults.of_dataset}{self.path}",
                expected="at least one usable row",
                hint="check `format` and `options`, or read the file with `invalid: error`",
            )

    def _rows(self) -> Iterator[Row]:
        found = find_files(self.path, self._files)
        several = len(found) > 1 or is_glob(self.path)
        for file in found:
            self.faults.prefix = f"{self._name_of(file)}:" if several else ""
            for record in read_records(file, self.faults, self._field):
                try:
                    yield from self._wanted(self._format.rows(record))
                except RecursionError:
                    self.faults.report(
                        "nested",
                        "The object is nested too deeply.",
                        expected="fewer than 300 turns",
                    )
        finish: Callable[[], Iterable[Row]] | None = getattr(self._format, "finish", None)
        if finish is not None:
            yield from self._wanted(finish())

    def _wanted(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows that hold none of the texts that are excluded."""
        for row in rows:
            if self._exclude:
                texts = "\0".join(texts_of(row)).casefold()
                if any(one in texts for one in self._exclude):
                    self.faults.filtered["excluded"] += 1
                    continue
            yield row

    def _name_of(self, file: Path) -> str:
        """What tells the ids of one file's rows from those of another's."""
        root = root_of(self.path)
        return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name


def load(
    name: str,
    path: str | Path,
    options: dict[str, Any] | None = None,
    files: Sequence[str] | None = None,
) -> Rows:
    """Read a whole dataset into memory; see ``Source``."""
    source = Source(name, path, options, files)
    rows = Rows()
    for row in source:
        rows.add(row)
    rows.counts = source.faults.dropped + source.faults.filtered
    return rows


def _check_types(factory: Any, options: dict[str, Any], faults: Faults) -> None:
    """Compare options with the annotations of the constructor that takes them."""
    hints = get_type_hints(factory.__init__)
    for option, value in options.items():
        try:
            TypeAdapter(hints.get(option, Any)).validate_python(value, strict=True)
        except ValidationError:
            raise faults.wrong_option(option, value, _in_words(hints[option])) from None


def _in_words(hint: Any) -> str:
    inner = [one for one in get_args(hint) if one is not NoneType]
    if NoneType in get_args(hint):
        return f"{_in_words(inner[0])}, or null"
    if get_origin(hint) is Sequence:
        return "a list, such as [a, b]"
    if get_origin(hint) is Mapping:
        return "keys and values, such as {a: b}"
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(hint, "text")


def _choose(value: Any, known: dict[str, Any], key: str, dataset: str) -> Any:
    if isinstance(value, str) and value in known:
        return known[value]
    close = difflib.get_close_matches(str(value), known, n=1)
    raise ConfigError(
        f"{value!r} is not known here.",
        where=f"datasets.{dataset}.{'options.' if key == 'invalid' else ''}{key}",
        expected=f"one of: {', '.join(sorted(known))}",
        hint=f"did you mean {close[0]!r}?" if close else None,
    )
