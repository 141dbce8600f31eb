"""Dialogues as lists of what two people say in turn, without roles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlhf.data.formats.columns import Columns, columns_of, holds_something, unread_keys
from rlhf.data.formats.faults import Faults, shown
from rlhf.data.formats.labels import Labels
from rlhf.data.formats.system import SystemColumn
from rlhf.data.formats.turns import dialogue, in_turn, merged, prompts_only
from rlhf.data.rows import Message, Role, Row


class Dialogues:
    """A list of texts, user first; or a list of objects with what each of the two says.

    If a label says that the last reply is bad, the row only gives prompts and is counted as
    ``rejected_reply``.

    Args:
        faults: where faults go.
        turns: column of the list.
        keys: keys of the user's and of the assistant's text, if the list holds objects; an object
            may hold one of them or both.
        speakers: column of who says each text. Dialogues that do not alternate between two
            speakers are left out and counted as ``speakers``.
        prefix: column or template that is put before the first text.
        system: column or template of a system message; null: ``system`` or ``system_prompt``, if
            there is one; an empty name: none.
        label: column that says whether the last reply is good; null: ``label``, ``kto_tag``,
            ``tag``, ``is_good`` or ``desirable``, if it is true or false; an empty name: none.
    """

    def __init__(
        self,
        faults: Faults,
        turns: str = "dialogue",
        keys: Sequence[str] | None = None,
        speakers: str | None = None,
        prefix: str | None = None,
        system: str | None = None,
        label: str | None = None,
    ) -> None:
        if keys is not None and (not isinstance(keys, list | tuple) or len(keys) != 2):
            raise faults.wrong_option("keys", keys, "two keys, such as [input, output]")
        self._faults, self._turns, self._keys, self._speakers = faults, turns, keys, speakers
        self._prefix, self._columns = prefix, Columns(faults)
        taken = columns_of(turns, speakers, prefix)
        self._system = SystemColumn(faults, self._columns, system, taken)
        self._labels = Labels(faults, label, taken | self._system.reads)
        self.reads = taken | self._system.reads | self._labels.reads

    def rows(self, record: dict[str, Any]) -> list[Row]:
        """The conversation up to its last reply, and each history that ends with the user."""
        turns = self._columns.value(record, self._turns, "turns")
        if not isinstance(turns, list) or not turns:
            if turns is not None:
                self._faults.report_value("column_type", self._turns, turns, "a list of turns")
            return []
        if self._speakers is not None and not self._two_in_turn(record, self._speakers, len(turns)):
            return []
        messages = self._pairs(turns) if self._keys else self._texts(turns)
        if messages is None:
            return []
        if self._prefix is not None:
            prefix = self._columns.text(record, self._prefix, "prefix")
            if prefix is None:
                return []
            messages[0] = Message("user", f"{prefix} {messages[0].content}")
        whole = self._system.before(record, messages)
        found = None if whole is None else in_turn(self._faults, whole)
        good = None if found is None else self._labels.says(record)
        if found is None or good is None:
            return []
        self._count_unread(turns)
        rows = dialogue(self._faults.row_id, found)
        rows += self._labels.feedback(rows)
        return rows if good else prompts_only(self._faults, rows, "rejected_reply")

    def _count_unread(self, turns: list[Any]) -> None:
        objects = [one for one in turns if isinstance(one, dict)]
        held = {key for one in objects for key in unread_keys(one, self._keys or ())}
        for key in held:
            self._faults.count_unread(f"{self._turns}[].{key}")

    def _two_in_turn(self, record: dict[str, Any], column: str, count: int) -> bool:
        names = self._columns.value(record, column, "speakers")
        if not isinstance(names, list) or len(names) != count:
            if names is not None:
                self._faults.report_value(
                    "column_type", column, names, f"a list of {count} names, one for each turn"
                )
            return False
        two = names[:2] if len(set(map(str, names[:2]))) == 2 else []
        if any(name != two[i % 2] for i, name in enumerate(names)) if two else True:
            self._faults.filtered["speakers"] += 1
            return False
        return True

    def _texts(self, turns: list[Any]) -> list[Message] | None:
        messages = []
        for position, said in enumerate(turns, start=1):
            if isinstance(said, dict):
                self._report_object(said, position)
                return None
            text = self._faults.text({self._turns: said}, self._turns, position)
            if text is None:
                return None
            role: Role = "user" if position % 2 else "assistant"
            messages.append(Message(role, text))
        return messages

    def _report_object(self, turn: dict[str, Any], position: int) -> None:
        keys = ", ".join(map(str, turn)) or "none"
        self._faults.report(
            "text_empty",
            f"A turn is an object and no text; its keys are: {keys}.",
            expected="a list of texts",
            message=position,
            key=self._turns,
            hint=f"take `format: messages` with `options.column: {self._turns}`"
            if {"role", "content"} <= turn.keys()
            else "name the keys of the user's and of the assistant's text in `options.keys`",
        )

    def _pairs(self, turns: list[Any]) -> list[Message] | None:
        user, assistant = self._keys or ("", "")
        messages: list[Message] = []
        for position, one in enumerate(turns, start=1):
            held = [
                key
                for key in (user, assistant)
                if isinstance(one, dict) and holds_something(one.get(key))
            ]
            if not held:
                self._faults.report(
                    "text_empty",
                    f"A turn is {shown(one)}.",
                    expected=f"an object with a text in `{user}` or `{assistant}`",
                    message=position,
                    key=self._turns,
                )
                return None
            roles: tuple[tuple[str, Role], ...] = ((user, "user"), (assistant, "assistant"))
            for key, role in roles:
                if key in held:
                    text = self._faults.text(one, key, position)
                    if text is None:
                        return None
                    messages.append(Message(role, text))
        return merged(messages)
