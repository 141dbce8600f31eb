"""JSON lines of ``{"messages": [{"role", "content"}, …]}``, the ecosystem's common form."""

from __future__ import annotations

from typing import Any

from rlhf.data.formats.faults import Faults
from rlhf.data.rows import ROLES, Conversation, Message, Prompt, Row
from rlhf.data.split import group_of


class Messages:
    """Each line is a dialogue; one that ends with the user gives prompts and no demonstration.

    ``id`` is the object's own, or the number of its line; the prompt before the n-th reply is
    ``id/n``.

    Args:
        faults: where faults go.
    """

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._seen: set[str] = set()

    def rows(self, record: dict[str, Any]) -> list[Row]:
        """The conversation up to its last reply, and each history that ends with the user."""
        row_id = str(record.get("id", self._faults.line))
        if row_id in self._seen:
            self._faults.report(
                "duplicate_id",
                f"The id {row_id!r} occurs twice.",
                expected="an `id` of its own for each row, or none at all",
            )
            return []
        messages = self._messages(record.get("messages"))
        if messages is None:
            return []
        self._seen.add(row_id)
        group = group_of(next(one.content for one in messages if one.role == "user"))
        rows: list[Row] = []
        replies = [i for i, one in enumerate(messages) if one.role == "assistant"]
        if replies:
            rows.append(Conversation(row_id, group, messages[: replies[-1] + 1]))
        prompts = [i for i, one in enumerate(messages) if one.role == "user"]
        for turn, last in enumerate(prompts, start=1):
            rows.append(Prompt(f"{row_id}/{turn}", group, messages[: last + 1]))
        return rows

    def _messages(self, raw: Any) -> tuple[Message, ...] | None:
        expected = "`messages` is a list of {role, content}; a system message first if at all, "
        expected += "then user and assistant in turn"
        if not isinstance(raw, list) or not raw or not all(isinstance(one, dict) for one in raw):
            self._faults.report(
                "no_messages", "The row holds no list of messages.", expected=expected
            )
            return None
        messages = []
        for position, one in enumerate(raw, start=1):
            role = self._faults.role(one, dict(zip(ROLES, ROLES, strict=True)), position)
            text = self._faults.text(one, "content", position) if role else None
            if role is None or text is None:
                return None
            messages.append(Message(role, text))
        turns = [one.role for one in messages]
        if turns[0] == "system":
            turns = turns[1:]
        for turn, role in enumerate(turns):
            if role != ("user", "assistant")[turn % 2]:
                repeated = turn > 0 and role == turns[turn - 1]
                self._faults.report(
                    "role_repeated" if repeated else "role_order",
                    f"Two messages of the role {role!r} follow each other."
                    if repeated
                    else f"The role {role!r} is out of turn.",
                    expected=expected,
                    message=turn + 1 + len(messages) - len(turns),
                )
                return None
        if not turns:
            self._faults.report("no_messages", "Nobody says anything.", expected=expected)
            return None
        return tuple(messages)
