"""Columns of a row by path, and templates that are filled from them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rlhf.data.formats.faults import MEND, Faults
from rlhf.data.names import kind_of, printable

_PLACE = re.compile(r"\{([^{}?]+)(\??)\}")
_SEPARATORS = re.compile(r"[,;|\t]")
_MISSING = object()
# Words of columns that stand for another one, or say something of it.
_NO_TEXT = {
    *("id", "ids", "uuid", "hash", "index", "idx", "url", "type"),
    *("len", "length", "tokens", "source", "score"),
}


def _words(name: str) -> set[str]:
    return set(name.lower().replace("-", "_").split("_"))


def look_up(record: Any, path: str) -> Any:
    """What stands under ``a.b.0``; raises ``KeyError`` with the part that is not there."""
    if isinstance(record, Mapping) and path in record:
        return record[path]
    found = record
    for part in path.split("."):
        inner = _MISSING
        if isinstance(found, Mapping):
            inner = found.get(part, _MISSING)
        elif isinstance(found, list) and part.isdigit() and int(part) < len(found):
            inner = found[int(part)]
        if inner is _MISSING:
            raise KeyError(part)
        found = inner
    return found


def there(record: Any, path: str | None) -> Any:
    """What stands under a path, or None where nothing does."""
    try:
        return look_up(record, path) if path else None
    except KeyError:
        return None


def _is_of_empty_list(record: Any, path: str) -> bool:
    """Whether a path leads to a part of a list that has none."""
    before, dot, part = path.rpartition(".")
    try:
        return bool(dot) and part.isdigit() and look_up(record, before) == []
    except KeyError:
        return False


def columns_of(*specs: str | None) -> frozenset[str]:
    """Names of the columns that paths and templates read; None stands for no column."""
    paths: set[str] = set()
    for spec in filter(None, specs):
        places = [place[1] for place in _PLACE.finditer(spec)]
        paths.update(places or [spec])
    return frozenset(paths | {path.split(".")[0] for path in paths})


def holds_something(value: Any) -> bool:
    """Whether a value says anything: it is no null, NaN, blank text, or empty list or object."""
    if isinstance(value, str):
        return bool(value.strip())
    return value == value and value not in (None, [], {})


def unread_keys(raw: Mapping[str, Any], read: Collection[str]) -> set[str]:
    """Keys of an object that hold something and are not read, in a form that can be printed."""
    held = (key for key, value in raw.items() if key not in read and holds_something(value))
    return {printable(key) for key in held}


def _speaks(value: Any) -> bool:
    """Whether a value is a message; see ``objects``, which builds on this module."""
    return isinstance(value, dict) and not value.keys().isdisjoint(("role", "from"))


def part_of(value: Any, path: str) -> str:
    """What to do with a column that holds no text, that loses nothing unsaid."""
    if isinstance(value, bool) or not isinstance(value, int | float | list | dict):
        return MEND
    if isinstance(value, int | float):
        return f"write it as a template, which makes a text of a number: `{{{path}}}`; or {MEND}"
    if isinstance(value, list) and any(_speaks(one) for one in value):
        return (
            "a list of messages is read by `format: messages`, as `options.column: "
            f"{path}`; if its reply has a column of its own, by `format: preference`, with "
            "`options.chosen` for the reply and `options.rejected: null`; or " + MEND
        )
    if isinstance(value, list):
        return f"`{path}.0` is the first of its {len(value)} parts, the others are left; or {MEND}"
    texts = [one for one, inner in value.items() if isinstance(inner, str) and not one.isdigit()]
    return f"name a part of it, `{path}.{texts[0]}` perhaps, or {MEND}" if texts else MEND


class Columns:
    """Reads columns and reports what is wrong with them.

    Args:
        faults: where faults go.
        remove: a regular expression; what it matches is taken out of texts.
        join: how a list of strings becomes one text; None: a list is a fault.

    Raises:
        ConfigError: ``remove`` is no regular expression.
    """

    def __init__(self, faults: Faults, remove: str | None = None, join: str | None = None) -> None:
        self._faults, self._join = faults, join
        try:
            self._remove = re.compile(remove) if remove else None
        except (re.error, TypeError) as error:
            raise faults.wrong_option("remove", remove, f"a regular expression ({error})") from None

    def value(
        self,
        record: dict[str, Any],
        path: str,
        option: str,
        nothing: Any = None,
        template: bool = False,
    ) -> Any:
        """What stands in a column, or None after reporting that nothing does.

        Args:
            record: the row.
            path: the column's path.
            option: the option that says so, for messages.
            nothing: stands for null.
            template: whether the option's value is a template that names the column.
        """
        try:
            found = look_up(record, path)
            if found is not None and found == found:  # pandas writes NaN for what is missing
                return found
            if nothing is None:
                self._report_empty(path)
            return nothing
        except KeyError as error:
            if _is_of_empty_list(record, path):
                self._report_empty(path)
                return nothing
            names = ", ".join(record) or "none"
            first = str(path).split(".")[0]
            inside = f" (there is no {error.args[0]!r} in it)" if first in record else ""
            self._faults.report(
                "column_missing",
                f"The row has no column `{path}`{inside}; its columns are: {names}.",
                expected=f"a column `{path}`",
                key=path,
                hint=self._other_column(record, path, option, template),
            )
            return None

    def _other_column(self, record: dict[str, Any], path: str, option: str, template: bool) -> str:
        """What to do where a column is missing, that loses nothing."""
        odd = next((one for one in record if _SEPARATORS.search(one)), None)
        if len(record) == 1 and odd is not None:
            return (
                "the file's columns were not told apart: name what stands between them with "
                "`options.delimiter`, and write each text in quotes of its own"
            )
        # A column that the format reads already would stand for two things.
        free = [one for one in record if one not in (self._faults.reads or ())]
        first = str(path).split(".")[0]
        free = [one for one in free if not (_words(one) & _NO_TEXT) - _words(first)]
        close = difflib.get_close_matches(first, free, n=1)
        close = close or [one for one in free if _words(first) <= _words(one)]
        perhaps = f", `{close[0]}` perhaps" if close and close[0] != first else ""
        place = f"`{{{path}}}` in " if template else ""
        hint = f"set {place}`options.{option}` to the right column{perhaps}"
        hint += ", or choose another format"
        if kind_of(Path(self._faults.path)) in (".csv", ".tsv"):
            hint += "; if the first line is a row, put a line with the columns' names before it"
        return hint

    def text(
        self,
        record: dict[str, Any],
        spec: str,
        option: str | Mapping[str, str],
        empty: str | None = None,
    ) -> str | None:
        """A text, or None after reporting a fault.

        Args:
            record: the row.
            spec: a column's path, or a template with ``{path}``; ``{path?}`` may be empty.
            option: the option that says so, for messages; of each column, if each has its own.
            empty: stands for a text that is absent or empty.
        """
        if _PLACE.search(spec):
            return self._fill(record, spec, option)
        if empty is not None and not self._has(record, spec):
            return empty
        value = self.value(record, spec, option if isinstance(option, str) else option[spec])
        return None if value is None else self._checked(value, spec)

    def _fill(
        self, record: dict[str, Any], template: str, option: str | Mapping[str, str]
    ) -> str | None:
        parts: list[str] = []
        at = 0
        for place in _PLACE.finditer(template):
            parts.append(template[at : place.start()])
            at = place.end()
            path, optional = place[1], bool(place[2])
            if optional and not self._has(record, path):
                continue
            if isinstance(option, str):
                value = self.value(record, path, option, template=True)
            else:
                value = self.value(record, path, option[path])
            if isinstance(value, int | float) and not isinstance(value, bool):
                value = str(value)
            text = None if value is None else self._checked(value, path)
            if text is None:
                return None
            parts.append(text)
        return "".join([*parts, template[at:]]).strip()

    def _checked(self, value: Any, path: str) -> str | None:
        listed = value if self._join is not None and isinstance(value, list) else None
        if listed is not None and all(isinstance(one, str) for one in listed):
            value = (self._join or "").join(listed)
        if not isinstance(value, str):
            self._faults.report_value("column_type", path, value, "text", hint=part_of(value, path))
            return None
        text = self._remove.sub("", value) if self._remove else value
        if not text.strip():
            self._report_empty(path)
            return None
        return text if self._faults.is_unicode(text, key=path) else None

    def _report_empty(self, path: str) -> None:
        self._faults.report("text_empty", f"Column `{path}` is empty.", expected="a text", key=path)

    def _has(self, record: dict[str, Any], path: str) -> bool:
        """Whether there is something in a column."""
        return holds_something(there(record, path))
