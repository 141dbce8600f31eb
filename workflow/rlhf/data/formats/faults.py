"""What happens to faulty rows: the first one is an error, or each is dropped and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rlhf.data.formats.accounts import Account, Held, Tally
from rlhf.data.names import printable
from rlhf.data.rows import Role
from rlhf.errors import ConfigError, DataError

NAMES = 200  # of unread columns; keys that are data would be without end
OTHERS = "(others)"
MEND = "mend the file, or set `options.invalid: drop` to count such rows and go on"


def is_read(column: str, reads: Collection[str]) -> bool:
    """Whether a column is one of those that a format reads; ``a.b`` may be a part of ``a``."""
    return column in reads or ("." in column and column.split(".")[0] in reads)


def shown(value: Any) -> str:
    """A value for an error message: its kind, and how it begins."""
    if value is None:
        return "nothing (null)"
    text = repr(value)
    return f"a {type(value).__name__}: {text if len(text) <= 60 else text[:57] + '…'}"


class Faults:
    """The policy for faults of rows, and the tally.

    Args:
        path: the file that is read.
        drop: count faults instead of raising at the first.
        dataset: its name in the configuration.

    Attributes:
        path: the file that is being read.
        line: number of the line or row that is being read.
        nth: which of the objects that begin on that line it is, from 1.
        unit: what stands before that number: ``:`` for lines, ``, row `` in a binary file.
        prefix: goes before row ids, so that those of several files differ.
        reasons: what was dropped and filtered since this list was cleared.
        dropped: reason → how many messages, replies or rows were faulty.
        filtered: reason → how many the options or the source's own marks leave out.
        reads: columns that the format may read, by their first names; None: it may read all.
        account: what became of the rows of the file that is being read.
        holding: whether the format holds the row that is being read.
        unread: column, or key of messages as ``messages[].name`` → how many rows hold something
            there that the format does not read.
        noticed: reason → how many rows were read as they stand but look like a mistake.
    """

    def __init__(self, path: str | Path, drop: bool = False, dataset: str = "<name>") -> None:
        self.path, self.drop, self.line, self.nth = path, drop, 0, 1
        self.dataset, self.unit, self.prefix = dataset, ":", ""
        self.reads: Collection[str] | None = None
        self.account = Account()
        self.holding = False
        self.reasons: list[str] = []
        self.dropped: Counter[str] = Tally(self.reasons)
        self.filtered: Counter[str] = Tally(self.reasons)
        self.unread: Counter[str] = Counter()
        self.noticed: Counter[str] = Counter()

    @property
    def row_id(self) -> str:
        """Id of a row that has none of its own."""
        return f"{self.prefix}{self.line}" + (f"#{self.nth}" if self.nth > 1 else "")

    @property
    def of_dataset(self) -> str:
        """The dataset's key, to go before a place in a file."""
        return "" if self.dataset == "<name>" else f"datasets.{self.dataset}: "

    def wrong_option(self, option: str, value: object, expected: str) -> ConfigError:
        """The error for an option that has a wrong value."""
        return ConfigError(
            f"{value!r} is no value of this option.",
            where=f"datasets.{self.dataset}.options.{option}",
            expected=expected,
        )

    def report(
        self,
        reason: str,
        what: str,
        *,
        expected: str,
        message: object = None,
        column: int | None = None,
        key: str | None = None,
        hint: str = MEND,
    ) -> None:
        """Count a fault, or raise it.

        Args:
            reason: short name, a key of the statistics.
            what: the fault in one sentence.
            expected: what would have been right.
            message: id of the message concerned.
            column: character in the line.
            key: column of the row concerned.
            hint: what to do.

        Raises:
            DataError: faults are errors; it names file, line and message.
        """
        if self.drop:
            self.dropped[reason] += 1
            return
        where = f"{self.of_dataset}{self.path}{self.unit}{self.line}"
        where += f":{column}" if column is not None else ""
        where += f", message {message}" if message is not None else ""
        where += f", column {key}" if key is not None else ""
        raise DataError(what, where=where, expected=expected, hint=hint)

    def report_value(
        self,
        reason: str,
        key: str,
        value: Any,
        expected: str,
        *,
        message: object = None,
        hint: str = MEND,
    ) -> None:
        """Count or raise a fault of what stands in a column; see ``report``."""
        what = f"Column `{key}` holds {shown(value)}."
        self.report(reason, what, expected=expected, message=message, key=key, hint=hint)

    def hold(self) -> Held:
        """Say that the row that is being read gives something when all are read, or nothing."""
        self.holding = True
        return Held(self.account)

    def count_unread(self, column: str, rows: int = 1) -> None:
        """Count rows that hold something in a column that is not read."""
        name = printable(column)
        known = name in self.unread or len(self.unread) < NAMES
        self.unread[name if known else OTHERS] += rows

    def report_row(self, reason: str, what: str, **more: Any) -> None:
        """Count or raise a fault of a row that no format gets to see; see ``report``."""
        self.report(reason, what, **more)
        self.account.leave_out(reason)

    def role(
        self,
        raw: Mapping[str, Any],
        roles: Mapping[str, Role],
        message: object,
        key: str = "role",
        hint: str = MEND,
    ) -> Role | None:
        """The message's role in our terms, or None after reporting a fault.

        Args:
            raw: a message as it stands in the file.
            roles: the format's role → ours.
            message: id or position of the message.
            key: where the role stands.
            hint: what to do about a role that is absent or unknown.
        """
        expected = f"`{key}` is one of: {', '.join(roles)}"
        if raw.get(key) is None:
            self.report(
                "role_missing",
                "A message has no role.",
                expected=expected,
                message=message,
                hint=hint,
            )
            return None
        role = roles.get(raw[key]) if isinstance(raw[key], str) else None
        if role is None:
            self.report(
                "role_unknown",
                f"A message has the unknown role {raw[key]!r}.",
                expected=expected,
                message=message,
                hint=hint,
            )
        return role

    def text(
        self,
        raw: Mapping[str, Any],
        key: str,
        message: object = None,
        hint: str = MEND,
    ) -> str | None:
        """The message's text, or None after reporting a fault."""
        text = raw.get(key)
        if not isinstance(text, str) or not text.strip():
            self.report(
                "text_empty",
                "A message has no text.",
                expected=f"`{key}` is a string with something in it",
                message=message,
                hint=hint,
            )
            return None
        return text if self.is_unicode(text, message) else None

    def is_unicode(self, text: str, message: object = None, key: str | None = None) -> bool:
        """Whether a text can be written; a fault is reported if not."""
        try:
            text.encode()
        except UnicodeEncodeError:
            self.report(
                "text_surrogate",
                "A message holds half of a surrogate pair, which is not text.",
                expected="valid Unicode in `\\u` escapes",
                message=message,
                key=key,
            )
            return False
        return True
