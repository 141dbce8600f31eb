"""Lists of messages: ``{"messages": [{"role", "content"}, …]}``, ShareGPT and the like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf.data.formats.faults import Faults
from rlhf.data.formats.turns import IN_TURN, NAMES, dialogue, in_turn, merged
from rlhf.data.rows import Message, Role, Row

SHAREGPT: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "system": "system",
}


class Messages:
    """Each row is a dialogue; one that ends with the user gives prompts and no demonstration.

    ``id`` is the row's own, or the number of its line; the prompt before the n-th reply is
    ``id/n``.

    Args:
        faults: where faults go.
        column: column of the list.
        role: key of a message's role.
        content: key of a message's text.
        system: column of a system message that stands outside of the list.
        merge: make one of messages that one role says in a row.
        roles: role in the file → user, assistant or system.
    """

    def __init__(
        self,
        faults: Faults,
        column: str = "messages",
        role: str = "role",
        content: str = "content",
        system: str | None = None,
        merge: bool = False,
        roles: Mapping[str, Role] | None = None,
    ) -> None:
        self._faults, self._column, self._role, self._content = faults, column, role, content
        self._system, self._merge = system, merge
        self._roles = dict(roles or NAMES)
        if not set(self._roles.values()) <= set(NAMES):
            raise faults.wrong_option("roles", roles, f"role in the file → {', '.join(NAMES)}")
        self._seen: set[str] = set()

    def rows(self, record: dict[str, Any]) -> list[Row]:
        """The conversation up to its last reply, and each history that ends with the user."""
        row_id = str(record.get("id", self._faults.row_id))
        if row_id in self._seen:
            self._faults.report(
                "duplicate_id",
                f"The id {row_id!r} occurs twice.",
                expected="an `id` of its own for each row, or none at all",
            )
            return []
        messages = self._messages(record)
        if messages is None:
            return []
        self._seen.add(row_id)
        return dialogue(row_id, messages)

    def _messages(self, record: dict[str, Any]) -> tuple[Message, ...] | None:
        raw = record.get(self._column)
        expected = f"`{self._column}` is a list of {{{self._role}, {self._content}}}; {IN_TURN}"
        if not isinstance(raw, list) or not raw or not all(isinstance(one, dict) for one in raw):
            there = ", ".join(record) or "none"
            self._faults.report(
                "no_messages",
                f"The row holds no list of messages; its columns are: {there}.",
                expected=expected,
                key=self._column,
            )
            return None
        messages = []
        if self._system is not None and str(record.get(self._system) or "").strip():
            messages.append(Message("system", str(record[self._system])))
        for position, one in enumerate(raw, start=1):
            role = self._faults.role(one, self._roles, position, self._role)
            text = self._faults.text(one, self._content, position) if role else None
            if role is None or text is None:
                return None
            messages.append(Message(role, text))
        return in_turn(self._faults, merged(messages) if self._merge else messages, expected)


class ShareGpt(Messages):
    """``{"conversations": [{"from", "value"}, …]}`` of human and gpt; repeated turns are joined.

    Args:
        faults: where faults go.
        column: column of the list.
        system: column of a system message.
    """

    def __init__(
        self, faults: Faults, column: str = "conversations", system: str | None = None
    ) -> None:
        super().__init__(faults, column, "from", "value", system, merge=True, roles=SHAREGPT)
