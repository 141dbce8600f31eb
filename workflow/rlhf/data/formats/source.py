"""Formats that datasets come in.

To add one: write a module with a class like ``messages.Messages``: options are the keyword
arguments of its constructor, ``rows(record)`` turns one row of a file into rows of ours and
reports faults, and ``finish()``, if it has one, gives what has to wait for the last row. Every
row has to give something or be counted; one that waits is held by ``faults.hold()``, and settled
in ``finish()``: see ``accounts``. Then name the class in ``FORMATS``.

Only the module of the format that is used is imported, and only that one counts as code that a
dataset was made with: a change in one format leaves what came from others as it is.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Protocol, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from rlhf.data.files import is_glob, root_of, survey
from rlhf.data.formats.accounts import Account
from rlhf.data.formats.faults import Faults, is_read
from rlhf.data.formats.feedback import WAYS, split_replies
from rlhf.data.formats.keeping import Keeping
from rlhf.data.formats.lines import empty, is_blank
from rlhf.data.formats.noticing import notice
from rlhf.data.formats.records import read_records
from rlhf.data.names import printable
from rlhf.data.rows import Row, Rows, texts_of
from rlhf.errors import ConfigError, DataError, RlhfError


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
    "choices": ("choices", "MultipleChoice"),
    "comparison": ("comparisons", "Comparisons"),
    "dialogue": ("dialogues", "Dialogues"),
    "hh": ("transcripts", "HumanAssistant"),
    "labelled": ("labelled", "Labelled"),
    "messages": ("messages", "Messages"),
    "oasst": ("oasst", "OpenAssistant"),
    "preference": ("pairs", "Pairs"),
    "qa": ("questions", "Questions"),
    "ranked": ("ranked", "Ranked"),
    "scored": ("scored", "Scored"),
    "sharegpt": ("messages", "ShareGpt"),
    "summary": ("questions", "Summaries"),
    "text": ("plain", "PlainText"),
    "transcript": ("transcripts", "Transcripts"),
    "translation": ("translations", "Translations"),
}
GENERAL = (
    "invalid",
    "field",
    "delimiter",
    "exclude",
    "feedback",
    "keep",
    "keep_reply",
)  # options that every format has


def module_of(name: str) -> str:
    """Module that a format is in, for ``digest_code``; that of this package, if there is none."""
    return f"data.formats.{FORMATS[name][0]}" if name in FORMATS else "data.formats"


def class_of(name: str) -> Callable[..., Format]:
    """The class of a format."""
    module, attribute = FORMATS[name]
    return getattr(importlib.import_module(f"{__package__}.{module}"), attribute)


class Source:
    """The rows of one dataset; iterate over it once.

    Args:
        name: a key of ``FORMATS``.
        path: a file, a folder or a glob; see ``data.files``.
        options: options of the format; ``invalid``: ``error`` (default) or ``drop``; ``field``:
            key of the list of rows, if a JSON file holds one object; ``delimiter``: what stands
            between the columns of a CSV file; ``exclude``: texts, rows with one of which are
            left out, whatever the case of letters; ``feedback``: see ``split_replies``; ``keep``
            and ``keep_reply``: what prompts keep of their rows, see ``keeping``.
        files: globs of the files that are read in a folder.
        dataset: its name in the configuration, for messages.

    Attributes:
        faults: what was dropped and filtered so far.
        files: name of each file that was read so far → what became of its rows.
        not_read: name of a file that is not read → why.
        kept: which of ``data.rows_file.KEPT`` the prompts have.
        scored: whether preferences have scores.

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
        self._delimiter = options.pop("delimiter", None)
        self._exclude = options.pop("exclude", None) or []
        self._feedback = options.pop("feedback", None)
        keep, keep_reply = options.pop("keep", None), options.pop("keep_reply", None)
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
        if self._feedback is not None and (name == "labelled" or self._feedback not in WAYS):
            expected = f"{' or '.join(WAYS)}, for a format whose rows are not labelled themselves"
            raise self.faults.wrong_option("feedback", self._feedback, expected)
        if self._delimiter is not None and (
            not isinstance(self._delimiter, str)
            or len(self._delimiter) != 1
            or self._delimiter in '"\r\n'
        ):
            raise self.faults.wrong_option(
                "delimiter", self._delimiter, "one character, such as ';' or \"\\t\""
            )
        _check_types(factory, options, self.faults)
        self._format = factory(self.faults, **options)
        self.scored: bool = getattr(self._format, "scored", False)
        self._name = name
        self.files: dict[str, Account] = {}
        self.not_read: dict[str, str] = {}
        self._keeping = Keeping(self.faults, keep, keep_reply)
        self.kept = self._keeping.kept
        self.faults.reads = self._keeping.reads(self._format.reads)
        self._unread: dict[tuple[str, ...], tuple[str, ...]] = {}

    def __iter__(self) -> Iterator[Row]:
        empty = True
        for row in self._rows():
            empty = False
            yield row
        if empty:
            tally = self.faults.dropped + self.faults.filtered
            reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(tally.items()))
            left = f"; {tally.total()} were dropped ({reasons})" if tally else ": it had none"
            raise DataError(
                f"No row is left of the dataset{left}.",
                where=f"{self.faults.of_dataset}{self.path}",
                expected="at least one usable row",
                hint="check `format` and `options`, or read the file with `invalid: error`",
            )

    def _rows(self) -> Iterator[Row]:
        found = survey(self.path, self._files)
        self.not_read = found.left
        several = len(found.read) > 1 or is_glob(self.path)
        reads = self.faults.reads
        for file in found.read:
            name = self._name_of(file)
            self.faults.prefix = f"{name}:" if several else ""
            account = self.faults.account = self.files[name] = Account()
            for record in read_records(file, self.faults, self._field, self._delimiter):
                account.rows += 1
                if reads:
                    self._name_unread(record, reads)
                yield from self._of_record(record, account)
            if not account.rows:
                if len(found.read) == 1 and is_blank(file):
                    raise empty(file)
                self.faults.noticed["empty_file"] += 1
        yield from self._held()

    def _of_record(self, record: dict[str, Any], account: Account) -> list[Row]:
        """The rows of one object, which is counted as used, held or left out."""
        reasons = self.faults.reasons
        if reasons:
            reasons.clear()
        self.faults.holding = False
        try:
            made = self._keeping.add_to(self._format.rows(record), record)
        except RecursionError:
            made = []
            self.faults.report(
                "nested", "The object is nested too deeply.", expected="fewer than 300 turns"
            )
        rows = self._wanted(made)
        if self.faults.holding:
            return rows
        if rows:
            account.used += 1
        elif reasons:
            account.left_out[reasons[0]] += 1
        else:
            raise self._uncounted(f"{self.faults.path}{self.faults.unit}{self.faults.line}")
        return rows

    def _held(self) -> Iterator[Row]:
        """The rows of what the format held until all was read."""
        finish: Callable[[], Iterable[Row]] | None = getattr(self._format, "finish", None)
        if finish is None:
            return
        for _, rows in itertools.groupby(finish(), key=lambda row: row.id):
            yield from self._wanted(self._keeping.add_to(list(rows), None))
            self.faults.reasons.clear()
        for name, account in self.files.items():
            if account.held:
                raise self._uncounted(f"{name}, {account.held} rows")

    def _uncounted(self, place: str) -> RlhfError:
        return RlhfError(
            f"The format `{self._name}` neither used a row nor counted why not.",
            where=f"{self.faults.of_dataset}{place}",
            expected="every row accounted for",
            hint="this is a fault of the program: please report it, with the row",
        )

    def _name_unread(self, record: dict[str, Any], reads: Collection[str]) -> None:
        """Count the columns that hold something and are not read."""
        names = tuple(record)
        unread = self._unread.get(names)
        if unread is None:
            if len(self._unread) > 1000:  # keys that are data
                self._unread.clear()
            unread = tuple(one for one in names if not is_read(one, reads))
            self._unread[names] = unread
        for name in unread:
            value = record[name]
            if value or (value is not None and isinstance(value, int | float)):
                self.faults.count_unread(name)

    def _wanted(self, rows: Iterable[Row]) -> list[Row]:
        """The rows of one record that hold none of the texts that are excluded."""
        wanted = list(split_replies(rows, self._feedback) if self._feedback else rows)
        if self._exclude:
            found = len(wanted)
            wanted = [row for row in wanted if not self._is_excluded(row)]
            if len(wanted) < found:
                self.faults.filtered["excluded"] += found - len(wanted)
        notice(self.faults, wanted)
        return wanted

    def _is_excluded(self, row: Row) -> bool:
        texts = "\0".join(texts_of(row)).casefold()
        return any(one in texts for one in self._exclude)

    def _name_of(self, file: Path) -> str:
        """What tells the ids of one file's rows from those of another's."""
        root = root_of(self.path)
        inside = file != root and file.is_relative_to(root)
        return printable(file.relative_to(root).as_posix() if inside else file.name)


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
    if get_origin(hint) in (Union, UnionType):
        words = " or ".join(map(_in_words, inner))
        return f"{words}, or null" if NoneType in get_args(hint) else words
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
