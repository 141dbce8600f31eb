"""Marks that say yes or no, as files spell them: flags of messages, and labels of one answer."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from rlhf.data.formats.columns import columns_of, holds_something, there
from rlhf.data.formats.faults import Faults
from rlhf.data.rows import TEXT, Conversation, Feedback, Row

_FLAGS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
_WORDS = {
    "desirable": True,
    "undesirable": False,
    "chosen": True,
    "rejected": False,
    "good": True,
    "bad": False,
}
LABELS = ("label", "kto_tag", "tag", "is_good", "desirable")  # columns that may hold a label


def as_flag(value: Any) -> bool | None:
    """Whether a mark says yes: a boolean, 0 or 1, or one of them as text; None: anything else."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    return _FLAGS.get(value.strip().casefold()) if isinstance(value, str) else None


def as_label(value: Any) -> bool | None:
    """Whether a label says that an answer is good: a flag, or a word such as ``desirable``.

    None: it is neither. Words are desirable, chosen and good, and their opposites.
    """
    word = value.strip().casefold() if isinstance(value, str) else None
    return _WORDS[word] if word in _WORDS else as_flag(value)


class Labels:
    """Reads whether the answer of a row is good.

    Args:
        faults: where faults go.
        column: the label's column; an empty name: none is read; None: those of ``LABELS`` that
            hold true or false. Numbers in such a column may be classes: they are not read.
        taken: columns that the format reads as something else.

    Attributes:
        reads: columns that may be read.
    """

    def __init__(self, faults: Faults, column: str | None, taken: Collection[str] = ()) -> None:
        self._faults, self._column = faults, column
        self._known = [one for one in LABELS if one not in taken] if column is None else []
        self.reads = {*self._known, *columns_of(column)}
        self._said: bool | None = None  # of the last row; None: it has no label

    def says(self, record: dict[str, Any]) -> bool | None:
        """Whether the answer is good, which it is without a label; None after a fault."""
        if self._column:
            self._said = self._named(record, self._column)
            return self._said
        self._said = None
        for column in self._known:
            value = record.get(column)
            text = value.strip().casefold() if isinstance(value, str) else value
            if isinstance(value, bool) or text in ("true", "false"):
                self._said = self._said is not False and bool(as_flag(value))
            elif holds_something(value):
                self._faults.count_unread(column)
        return self._said is not False

    def feedback(self, rows: Iterable[Row]) -> list[Row]:
        """The last reply of each conversation with what the label said of it, if there was one."""
        return [] if self._said is None else judged(rows, self._said)

    def _named(self, record: dict[str, Any], column: str) -> bool | None:
        value = there(record, column)
        label = as_label(value)
        if label is None:
            self._faults.report_value(
                "label_invalid",
                column,
                value,
                "true, 1 or desirable for a good answer; false, 0 or undesirable",
                hint="name the label's column in `options.label`; with an empty name no label "
                "is read, and all answers are learned",
            )
        return label


def judged(rows: Iterable[Row], good: bool) -> list[Row]:
    """The last reply of each conversation, as one that is good or bad."""
    found: list[Row] = []
    for row in rows:
        if isinstance(row, Conversation) and row.messages[-1].role != TEXT:
            *history, reply = row.messages
            known = reply.properties
            found.append(Feedback(row.id, row.group, tuple(history), reply.content, good, known))
    return found
