"""System messages that stand in a column beside the dialogue."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from rlhf.data.formats.columns import Columns, columns_of, holds_something, there
from rlhf.data.formats.faults import Faults
from rlhf.data.formats.parts import joined, unread_of_parts
from rlhf.data.rows import Message

SYSTEM = ("system", "system_prompt")  # columns that hold one in the layouts that people share


class SystemColumn:
    """Reads the system message of a row and puts it before the dialogue.

    Args:
        faults: where faults go.
        columns: reads the column.
        column: its path, or a template; an empty name: none is read; None: those of ``SYSTEM``.
        taken: columns that the format reads as something else.

    Attributes:
        reads: columns that may be read.
    """

    def __init__(
        self, faults: Faults, columns: Columns, column: str | None, taken: Collection[str] = ()
    ) -> None:
        self._faults, self._columns, self._column = faults, columns, column
        self._known = [one for one in SYSTEM if one not in taken] if column is None else []
        self.reads = {*self._known, *columns_of(column)}

    def before(self, record: dict[str, Any], messages: Sequence[Message]) -> list[Message] | None:
        """The messages with the system message first, or None after reporting a fault."""
        text = self._text(record)
        if text is None:
            return None
        if text and messages and messages[0].role == "system":
            if messages[0].content.strip() == text.strip():
                return list(messages)
            self._conflict("The row has two system messages: in a column, and in the list.")
            return None
        return [*([Message("system", text)] if text else []), *messages]

    def _text(self, record: dict[str, Any]) -> str | None:
        """The text; empty, if there is none; None after reporting a fault."""
        if self._column is not None:
            return self._named(record, self._column) if self._column else ""
        found = ""
        for name in self._known:
            text = self._said(record.get(name), name)
            if text is None:
                return None
            if found and text and found != text:
                self._conflict(f"The row has two system messages: {' and '.join(self._known)}.")
                return None
            found = text or found
        return found

    def _named(self, record: dict[str, Any], column: str) -> str | None:
        if isinstance(value := there(record, column), list):
            return self._said(value, column)
        return self._columns.text(record, column, "system", "")

    def _said(self, value: Any, name: str) -> str | None:
        """A text, or one in parts as in messages; None after reporting a fault."""
        if not holds_something(value):
            return ""
        text = value
        if isinstance(value, list):
            text = joined(self._faults, value, name, column=name)
            for one in unread_of_parts(value, name) if text is not None else ():
                self._faults.count_unread(one)
        elif not isinstance(value, str):
            self._faults.report_value(
                "system_invalid",
                name,
                value,
                "the text of a system message",
                hint="name the right column in `options.system`; with an empty name none is read",
            )
            return None
        return self._columns.text({name: text}, name, "system", "") if text else text

    def _conflict(self, what: str) -> None:
        self._faults.report(
            "system_conflict",
            what,
            expected="one system message",
            hint="name the column that counts in `options.system`; with an empty name only the "
            "list's is read",
        )
