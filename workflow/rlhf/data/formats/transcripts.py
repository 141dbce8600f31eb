"""Dialogues as text: HH's ``\n\nHuman: …\n\nAssistant: …`` and others of its kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlhf.data.formats.columns import Columns, columns_of, there
from rlhf.data.formats.faults import Faults
from rlhf.data.formats.labels import Labels
from rlhf.data.formats.system import SystemColumn
from rlhf.data.formats.turns import (
    HUMAN_ASSISTANT,
    dialogue,
    in_turn,
    merged,
    prompts_only,
    ranked,
    reply_of,
    transcript,
    two_speakers,
    without_mark,
)
from rlhf.data.rows import Message, Row


class HumanAssistant:
    """Pairs of dialogues that differ in their last reply.

    A turn begins at a speaker's name at the start of a paragraph, so replies keep their
    paragraphs. Pairs whose dialogues diverge earlier cannot be compared: they give only a
    demonstration, and are counted as ``history_differs``.

    Args:
        faults: where faults go.
        chosen: column of the better dialogue.
        rejected: column of the worse one.
        speakers: names of user and assistant.
        system: column or template of a system message; null: ``system`` or ``system_prompt``, if
            there is one; an empty name: none.
    """

    def __init__(
        self,
        faults: Faults,
        chosen: str = "chosen",
        rejected: str = "rejected",
        speakers: Sequence[str] = HUMAN_ASSISTANT,
        system: str | None = None,
    ) -> None:
        self._faults, self._keys = faults, {"chosen": chosen, "rejected": rejected}
        self._speakers, self._columns = two_speakers(faults, speakers), Columns(faults)
        taken = columns_of(chosen, rejected)
        self._system = SystemColumn(faults, self._columns, system, taken)
        self.reads = taken | self._system.reads

    def rows(self, record: dict[str, Any]) -> list[Row]:
        """The chosen dialogue, the pair, and the prompt that both answer."""
        chosen = self._dialogue(record, "chosen")
        rejected = self._dialogue(record, "rejected") if chosen else None
        if chosen is None or rejected is None:
            return []
        history = self._system.before(record, chosen[:-1])
        if history is None:
            return []
        replies = [chosen[-1].content, rejected[-1].content]
        if rejected[:-1] != chosen[:-1]:
            self._faults.filtered["history_differs"] += 1
            replies = replies[:1]
        return ranked(self._faults, self._faults.row_id, history, replies)

    def _dialogue(self, record: dict[str, Any], option: str) -> tuple[Message, ...] | None:
        key = self._keys[option]
        value = there(record, key)
        if isinstance(value, list | dict):
            self._faults.report_value(
                "column_type",
                key,
                value,
                "a dialogue as text",
                hint="read lists of messages with `format: preference`",
            )
            return None
        text = self._columns.text(record, key, option)
        found = None if text is None else transcript(self._faults, text, self._speakers, False, key)
        if found is None:
            return None
        if found[-1].role != "assistant" or not found[-1].content:
            self._faults.report(
                "no_reply",
                "The dialogue does not end with a reply.",
                expected=f"a text after the last `{self._speakers[1]}:`",
                key=key,
            )
            return None
        return in_turn(self._faults, found)


class Transcripts:
    """Dialogues in one column, or a history in one column and the reply to it in another.

    If a label says that the last reply is bad, the row only gives prompts and is counted as
    ``rejected_reply``.

    Args:
        faults: where faults go.
        text: column of the dialogue, or of the history.
        reply: column of the last reply; null: the dialogue includes it.
        speakers: names of user and assistant.
        inline: turns may begin in the middle of a line.
        system: column or template of a system message; null: ``system`` or ``system_prompt``, if
            there is one; an empty name: none.
        label: column that says whether the last reply is good; null: ``label``, ``kto_tag``,
            ``tag``, ``is_good`` or ``desirable``, if it is true or false; an empty name: none.
    """

    def __init__(
        self,
        faults: Faults,
        text: str = "text",
        reply: str | None = None,
        speakers: Sequence[str] = HUMAN_ASSISTANT,
        inline: bool = True,
        system: str | None = None,
        label: str | None = None,
    ) -> None:
        self._faults, self._text, self._reply, self._inline = faults, text, reply, inline
        self._speakers, self._columns = two_speakers(faults, speakers), Columns(faults)
        taken = columns_of(text, reply)
        self._system = SystemColumn(faults, self._columns, system, taken)
        self._labels = Labels(faults, label, taken | self._system.reads)
        self.reads = taken | self._system.reads | self._labels.reads

    def rows(self, record: dict[str, Any]) -> list[Row]:
        """The conversation up to its last reply, and each history that ends with the user."""
        text = self._columns.text(record, self._text, "text")
        if text is None:
            return []
        reply = None
        if self._reply is not None:
            reply = self._columns.text(record, self._reply, "reply")
            if reply is None:
                return []
        text = without_mark(text, self._speakers)
        found = transcript(self._faults, text, self._speakers, self._inline, self._text)
        if found is None:
            return []
        if not found[-1].content:
            found.pop()  # a history that waits for its reply
        if reply is not None:
            said = reply_of(self._faults, reply, self._speakers, self._reply)
            if said is None:
                return []
            found = merged([*found, Message("assistant", said)], "\n\n")
        whole = self._system.before(record, found)
        messages = None if whole is None else in_turn(self._faults, whole)
        good = None if messages is None else self._labels.says(record)
        if messages is None or good is None:
            return []
        rows = dialogue(self._faults.row_id, messages)
        rows += self._labels.feedback(rows)
        return rows if good else prompts_only(self._faults, rows, "rejected_reply")
