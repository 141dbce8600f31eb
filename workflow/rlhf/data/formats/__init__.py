"""Formats that datasets come in.

To add one: write a module with a class like ``messages.Messages``: options are the keyword
arguments of its constructor, ``rows(record)`` turns one JSON object into rows and reports faults.
Then name it in ``FORMATS``.
"""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from rlhf.data.formats.faults import Faults
from rlhf.data.formats.lines import read_lines
from rlhf.data.formats.messages import Messages
from rlhf.data.formats.oasst import OpenAssistant
from rlhf.data.rows import Row, Rows
from rlhf.errors import ConfigError, DataError


class Format(Protocol):
    """Turns the objects of one file into rows."""

    def rows(self, record: dict[str, Any]) -> list[Row]:
        """Rows of one object of the file; faults are reported, not raised."""
        ...


FORMATS: dict[str, Callable[..., Format]] = {"messages": Messages, "oasst": OpenAssistant}


class Source:
    """The rows of one dataset file; iterate over it once.

    Args:
        name: a key of ``FORMATS``.
        path: JSON lines, plain or gzipped.
        options: options of the format, and ``invalid``: ``error`` (default) or ``drop``.

    Attributes:
        faults: what was dropped and filtered so far.

    Raises:
        ConfigError: the format or an option is unknown or has a wrong value.
        DataError: while iterating: the file or (``invalid: error``) a row is faulty, or nothing
            is left of the dataset.
    """

    def __init__(self, name: str, path: str | Path, options: dict[str, Any] | None = None) -> None:
        options = dict(options or {})
        factory = _choose(name, FORMATS, "format")
        invalid = _choose(options.pop("invalid", "error"), {"error": 0, "drop": 1}, "invalid")
        known = [one for one in inspect.signature(factory).parameters if one != "faults"]
        for option in options:
            _choose(option, dict.fromkeys([*known, "invalid"]), "options")
        self.path = Path(path)
        self.faults = Faults(path, drop=bool(invalid))
        self._format = factory(self.faults, **options)

    def __iter__(self) -> Iterator[Row]:
        empty = True
        for number, text in read_lines(self.path):
            self.faults.line = number
            for row in self._rows(text):
                empty = False
                yield row
        if empty:
            tally = self.faults.dropped + self.faults.filtered
            reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(tally.items()))
            raise DataError(
                f"No row is left of the dataset; {tally.total()} were dropped ({reasons}).",
                where=self.path,
                expected="at least one usable row",
                hint="check `format` and `options`, or read the file with `invalid: error`",
            )

    def _rows(self, text: str) -> list[Row]:
        try:
            record = json.loads(text)
            if isinstance(record, dict):
                return self._format.rows(record)
            self.faults.report(
                "not_an_object",
                f"The line holds a {type(record).__name__}.",
                expected="one JSON object",
            )
        except json.JSONDecodeError as error:
            self.faults.report(
                "json",
                f"The line is not JSON: {error.msg}.",
                column=error.colno,
                expected="one JSON object on one line",
            )
        except RecursionError:
            self.faults.report(
                "nested", "The object is nested too deeply.", expected="fewer than 300 turns"
            )
        return []


def load(name: str, path: str | Path, options: dict[str, Any] | None = None) -> Rows:
    """Read a whole dataset into memory; see ``Source``."""
    source = Source(name, path, options)
    rows = Rows()
    for row in source:
        rows.add(row)
    rows.counts = source.faults.dropped + source.faults.filtered
    return rows


def _choose(value: Any, known: dict[str, Any], key: str) -> Any:
    if isinstance(value, str) and value in known:
        return known[value]
    close = difflib.get_close_matches(str(value), known, n=1)
    raise ConfigError(
        f"{value!r} is not known here.",
        where=f"datasets.<name>.{'options.' if key == 'invalid' else ''}{key}",
        expected=f"one of: {', '.join(sorted(known))}",
        hint=f"did you mean {close[0]!r}?" if close else None,
    )
