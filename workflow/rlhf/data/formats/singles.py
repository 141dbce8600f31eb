"""Trees of messages that stand in a file one by one, each with the id of the one it answers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.data.formats.accounts import Held
from rlhf.data.formats.columns import holds_something
from rlhf.data.formats.faults import Faults, shown

PLACE = "\0place"  # key of a message that is a row: where it stands, and its account


@dataclass(frozen=True, slots=True)
class Place:
    """Where a message stands that is a row of a file, to be counted when all are read."""

    path: str | Path
    line: int
    unit: str
    held: Held

    def show(self, faults: Faults) -> None:
        """Let faults name this place."""
        faults.path, faults.line, faults.unit = self.path, self.line, self.unit


@dataclass(slots=True)
class _Single:
    """A message; ``is_row`` unless it stood in the replies of another one."""

    raw: dict[str, Any]
    parent: str | None
    is_row: bool


class Singles:
    """Holds single messages, and puts them together.

    A message may hold replies, which may hold replies in turn.

    Args:
        faults: where faults go.
    """

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._messages: list[_Single] = []

    def add(self, record: dict[str, Any]) -> None:
        """Hold a message; those in its replies become messages that answer it."""
        parent = record.get("parent_id")
        if not _is_id(record.get("message_id")):
            self._leave_out("id_missing", "A message has no id.", record, "`message_id` is a text")
            return
        if holds_something(parent) and not isinstance(parent, str):
            self._leave_out(
                "parent_invalid",
                f"`parent_id` of a message is {shown(parent)}.",
                record,
                "`parent_id` is the `message_id` of another row, or null in a prompt",
            )
            return
        above = parent if holds_something(parent) else None
        place = Place(self._faults.path, self._faults.line, self._faults.unit, self._faults.hold())
        pending = [_Single({**record, PLACE: place}, above, True)]
        while pending:
            one = pending.pop()
            replies = one.raw.get("replies") if holds_something(one.raw.get("replies")) else []
            if not isinstance(replies, list):
                self._leave_out(
                    "replies_invalid", "`replies` is no list.", one.raw, "a list of messages"
                )
                continue
            parts: dict[bool, list[Any]] = {True: [], False: []}
            for reply in replies:
                parts[isinstance(reply, dict) and _is_id(reply.get("message_id"))].append(reply)
            one.raw = {**one.raw, "replies": parts[False]}  # faulty: whoever reads them says so
            self._messages.append(one)
            pending += [_Single(raw, one.raw["message_id"], False) for raw in reversed(parts[True])]

    def trees(self) -> Iterator[dict[str, Any]]:
        """The prompts, with all that answers them in ``replies``; what hangs on none is a fault."""
        below: dict[str | None, list[_Single]] = defaultdict(list)
        for one in self._without_copies():
            below[one.parent].append(one)
        known = {one.raw["message_id"] for one in self._messages}
        for parent in [one for one in below if one is not None and one not in known]:
            for one in below.pop(parent):
                self._leave_out(
                    "parent_missing",
                    f"A message answers {parent!r}, which is not there.",
                    _with_replies(one.raw, below),
                    "`parent_id` is the `message_id` of another row, or null in a prompt",
                )
        for one in below.pop(None, []):
            yield _with_replies(one.raw, below)
        for one in [one for answers in below.values() for one in answers]:
            self._leave_out(
                "parent_circle",
                "A message answers itself, or one that answers it.",
                one.raw,
                "`parent_id` leads to a prompt, whose own is null",
            )

    def _without_copies(self) -> Iterator[_Single]:
        """The messages but those in replies that are rows as well."""
        rows = {one.raw["message_id"]: one for one in self._messages if one.is_row}
        for one in self._messages:
            row = rows.get(one.raw["message_id"])
            if one.is_row or row is None or row.raw.get("text") != one.raw.get("text"):
                yield one
            else:
                self._faults.filtered["message_repeated"] += 1

    def _leave_out(self, reason: str, what: str, raw: dict[str, Any], expected: str) -> None:
        """Report a fault of a message, and count those below it."""
        if PLACE in raw:
            raw[PLACE].show(self._faults)
        self._faults.report(reason, what, expected=expected, message=raw.get("message_id"))
        count_left_out(self._faults.dropped, raw, reason)


def count_left_out(tally: Counter[str], raw: dict[str, Any], reason: str) -> None:
    """Count the messages below one that is left out, and settle the rows among them and itself."""
    messages = list(thread(raw))
    for one in messages:
        if PLACE in one:
            one[PLACE].held.leave_out(reason if one is raw else "below_left_out")
    if below := len(messages) - 1:
        tally["below_left_out"] += below


def thread(raw: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A message, those in its replies, and those in theirs."""
    pending = [raw]
    while pending:
        one = pending.pop()
        yield one
        replies = one.get("replies")
        if isinstance(replies, list):
            pending += [reply for reply in replies if isinstance(reply, dict)]


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _with_replies(root: dict[str, Any], below: dict[str | None, list[_Single]]) -> dict[str, Any]:
    """A copy of a message with all that answers it."""
    top = dict(root)
    pending = [top]
    while pending:
        one = pending.pop()
        # Answers are taken out, so messages that answer each other in a circle end, too.
        answers = [dict(single.raw) for single in below.pop(one["message_id"], [])]
        one["replies"] = [*one["replies"], *answers]
        pending += answers
    return top
