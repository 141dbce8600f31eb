"""Lists of messages: ``{"messages": [{"role", "content"}, …]}``, ShareGPT and the like."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.data.formats.columns import Columns, columns_of, there
from rlhf.data.formats.contents import Contents
from rlhf.data.formats.faults import MEND, Faults, shown
from rlhf.data.formats.ids import RowIds
from rlhf.data.formats.labels import Labels
from rlhf.data.formats.objects import CALLING, ROLES, TOOLS, lists_of_messages
from rlhf.data.formats.system import SystemColumn
from rlhf.data.formats.turns import IN_TURN, NAMES, dialogue, in_turn, merged, prompts_only
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
# Roles of other makers → what they most probably are; a hint names it, nobody assumes it.
ELSEWHERE: dict[str, Role] = {
    **ROLES,
    **SHAREGPT,
    "ai": "assistant",
    **dict.fromkeys(CALLING, "assistant"),
    **dict.fromkeys(TOOLS, "user"),
}
MERGE = f"set `options.merge: true` to make one message of them, or {MEND}"


class _MessageLists:
    """What both formats share.

    Args:
        faults: where faults go.
        column: column of the list.
        contents: reads single messages.
        system, label, ids: as the formats say.
        merge: make one of messages that one role says in a row.
        roles: role in the file → ours.
    """

    def __init__(
        self,
        faults: Faults,
        column: str,
        contents: Contents,
        system: str | None,
        merge: bool,
        roles: Mapping[str, Role],
        label: str | None,
        ids: str,
    ) -> None:
        if not set(roles.values()) <= set(NAMES):
            raise faults.wrong_option("roles", roles, f"role in the file → {', '.join(NAMES)}")
        self._faults, self._column, self._contents = faults, column, contents
        self._merge, self._roles = merge, roles
        self._ids = RowIds(faults, ids)
        taken = columns_of(column)
        self._system = SystemColumn(faults, Columns(faults), system, taken)
        self._labels = Labels(faults, label, taken | self._system.reads)
        self.reads = taken | self._system.reads | self._labels.reads | {"id"}

    def rows(self, record: dict[str, Any]) -> list[Row]:
        """The conversation up to its last reply, and each history that ends with the user."""
        messages = self._messages(record)
        good = None if messages is None else self._labels.says(record)
        if messages is None or good is None:
            return []
        row_id = self._ids.take(record, sum(one.role == "user" for one in messages))
        if row_id is None:
            return []
        rows = dialogue(row_id, messages)
        rows += self._labels.feedback(rows)
        if not good:
            return prompts_only(self._faults, rows, "rejected_reply")
        if not any(one.trained for one in messages if one.role == "assistant"):
            return prompts_only(self._faults, rows, "untrained")
        return rows

    def _messages(self, record: dict[str, Any]) -> tuple[Message, ...] | None:
        raw = there(record, self._column)
        expected = f"`{self._column}` is a list of {self._contents.layout}; {IN_TURN}"
        if not isinstance(raw, list) or not raw or not all(isinstance(one, dict) for one in raw):
            self._report_no_list(record, expected)
            return None
        messages: list[Message] = []
        tools = []
        unread: set[str] = set()
        for position, one in enumerate(raw, start=1):
            if self._is_no_system(one):
                continue
            found = self._message(one, position)
            if found is None:
                return None
            messages.append(found)
            tools.append(one.get(self._contents.role_key(one)) in TOOLS)
            unread |= self._contents.unread(one, found.role == "assistant")
        joined = self._joined(messages, tools)
        whole = None if joined is None else self._system.before(record, joined)
        if whole is None or in_turn(self._faults, whole, expected, MERGE) is None:
            return None
        for key in unread:
            self._faults.count_unread(f"{self._column}[].{key}")
        return tuple(whole)

    def _is_no_system(self, raw: dict[str, Any]) -> bool:
        """Whether a message is the system's and says nothing, which is as good as none."""
        role = raw.get(self._contents.role_key(raw))
        is_system = isinstance(role, str) and self._roles.get(role) == "system"
        return is_system and self._contents.says_nothing(raw)

    def _message(self, raw: dict[str, Any], position: int) -> Message | None:
        key = self._contents.role_key(raw)
        name = raw.get(key)
        role = self._roles.get(name) if isinstance(name, str) else None
        if role is None:
            self._faults.role(raw, self._roles, position, key, self._hint(raw, key))
        text = self._contents.text(raw, position) if role else None
        if role is None or text is None:
            return None
        trained = self._contents.trained(raw, position) if role == "assistant" else True
        return None if trained is None else Message(role, text, trained=trained)

    def _hint(self, raw: dict[str, Any], key: str) -> str:
        """What to do about a message whose role is absent or unknown."""
        role = raw.get(key)
        if role is not None:
            name = str(role).casefold()
            said = f"`options.roles`, such as {{{role}: {ELSEWHERE.get(name, 'user')}}}"
            if name in (*TOOLS, *CALLING):
                said += ", and set `options.tool_calls: text`, which marks calls and their results"
            return f"say who that is in {said}; or {MEND}"
        if {"from", "value"} <= raw.keys():
            return f"take `format: sharegpt` with `options.column: {self._column}`"
        keys = [one for one in raw if ELSEWHERE.get(one) in ("user", "assistant")]
        if keys:
            return (
                f"keys of the message are {', '.join(raw)}: if they are who speaks, take "
                f"`format: dialogue` with `options.turns: {self._column}` and `options.keys`"
            )
        return (
            f"keys of the message are {', '.join(map(str, raw))}: name that of the role in "
            f"`options.role`; if they are what two people say, take `format: dialogue` with "
            f"`options.turns: {self._column}` and their keys in `options.keys`"
        )

    def _joined(self, messages: Sequence[Message], tools: Sequence[bool]) -> list[Message] | None:
        """The messages with those made one that belong together."""
        pairs = zip(itertools.pairwise(messages), itertools.pairwise(tools), strict=True)
        joins = [
            one.role == two.role and (self._merge or both == (True, True))
            for (one, two), both in pairs
        ]
        found = [[message] for message in messages[:1]]
        for position, (message, join) in enumerate(zip(messages[1:], joins, strict=True), start=2):
            if join and found[-1][-1].trained != message.trained:
                self._faults.report(
                    "trained_mixed",
                    "Two messages that become one differ in whether they are trained.",
                    expected="the same in both",
                    message=position,
                )
                return None
            if join:
                found[-1].append(message)
            else:
                found.append([message])
        return [merged(group)[0] for group in found]

    def _report_no_list(self, record: dict[str, Any], expected: str) -> None:
        columns = ", ".join(record) or "none"
        raw = there(record, self._column)
        self._faults.report(
            "no_messages",
            f"The row holds no list of messages; its columns are: {columns}"
            + (f"; `{self._column}` is {shown(raw)}" if raw is not None else "")
            + ".",
            expected=expected,
            key=self._column,
            hint=self._other_list(record, raw),
        )

    def _other_list(self, record: dict[str, Any], raw: Any) -> str:
        """What to do about a row without a list under its name, that loses nothing."""
        if isinstance(raw, str) and raw.lstrip().startswith("["):
            return (
                "it is a text that looks like a list, and texts are read as they stand: write the "
                "list itself, in JSON or Parquet"
            )
        lists = lists_of_messages(record)
        if len(lists) == 1:
            return f"set `options.column: {lists[0]}`, or choose another format"
        if lists:
            return (
                f"there are several lists of messages, {', '.join(lists)}: take `format: "
                "preference`, and name the prompt in `options.prompt`, the reply in "
                "`options.chosen` and the worse one in `options.rejected`, or set that to null"
            )
        others = [
            name
            for name, value in record.items()
            if isinstance(value, list) and value and all(isinstance(one, dict) for one in value)
        ]
        return (
            f"the row holds other lists of objects: {', '.join(others)}; name that of the messages "
            "in `options.column`, or choose another format"
            if others
            else MEND
        )


class Messages(_MessageLists):
    """Each row is a dialogue; one that ends with the user gives prompts but no demonstration.

    ``id`` is the row's own, with the file's name in front if several files are read, or the number
    of its line; the prompt before the n-th reply is ``id/n``. The content of a message is a text
    or a list of parts that are text. If no reply is trained, or a label says that the answer is
    bad, the row only gives prompts and is counted as ``untrained`` or ``rejected_reply``.

    Args:
        faults: where faults go.
        column: column of the list.
        role: key of a message's role.
        content: key of a message's text.
        system: column of a system message outside of the list; null: ``system`` or
            ``system_prompt``, if there is one; an empty name: none.
        merge: join consecutive messages of one role.
        roles: role in the file → user, assistant or system; in addition to these three.
        tool_calls: ``error``: a message that calls a tool and says nothing is an error; ``text``:
            calls and tool results are written as JSON and text in tags, as Hermes and Qwen do.
            Consecutive tool results become one message.
        trained: key of a message that is 0 or false if an assistant's turn is only context; null:
            ``weight``, ``train``, ``trainable``, ``training`` or ``loss``; an empty name: none.
        label: column that says whether the last reply is good; null: ``label``, ``kto_tag``,
            ``tag``, ``is_good`` or ``desirable``, if it is true or false; an empty name: none.
        ids: ``own``, or ``ignore``: rows are numbered, whatever their ``id`` is.
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
        tool_calls: str = "error",
        trained: str | None = None,
        label: str | None = None,
        ids: str = "own",
    ) -> None:
        contents = Contents(faults, [role], [content], tool_calls, trained)
        known = {**NAMES, **(roles or {})}
        super().__init__(faults, column, contents, system, merge, known, label, ids)


class ShareGpt(_MessageLists):
    """``{"conversations": [{"from", "value"}, …]}`` of human and gpt; consecutive turns are joined.

    Messages of ``role`` and ``content`` or ``text`` are also read. Ids, labels and untrained turns
    are as in ``messages``.

    Args:
        faults: where faults go.
        column: column of the list.
        system: column of a system message; null: ``system`` or ``system_prompt``, if there is one;
            an empty name: none.
        roles: role in the file → user, assistant or system; in addition to ShareGPT's own.
        tool_calls: ``error``: a message that calls a tool and says nothing is an error; ``text``:
            calls and tool results are written in tags, as Hermes and Qwen do.
        trained: key of a message that is 0 or false if an assistant's turn is only context; null:
            ``weight``, ``train``, ``trainable``, ``training`` or ``loss``; an empty name: none.
        label: column that says whether the last reply is good; null: ``label``, ``kto_tag``,
            ``tag``, ``is_good`` or ``desirable``, if it is true or false; an empty name: none.
        ids: ``own``, or ``ignore``: rows are numbered, whatever their ``id`` is.
    """

    def __init__(
        self,
        faults: Faults,
        column: str = "conversations",
        system: str | None = None,
        roles: Mapping[str, Role] | None = None,
        tool_calls: str = "error",
        trained: str | None = None,
        label: str | None = None,
        ids: str = "own",
    ) -> None:
        contents = Contents(
            faults, ["from", "role"], ["value", "content", "text"], tool_calls, trained
        )
        known = {**SHAREGPT, **(roles or {})}
        super().__init__(faults, column, contents, system, True, known, label, ids)
