"""What formats of replies to a prompt have in common: the prompt, the replies, their histories."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rlhf.data.formats.columns import Columns, holds_something, look_up, part_of, there
from rlhf.data.formats.faults import MEND, Faults, shown
from rlhf.data.formats.objects import is_message, read_messages
from rlhf.data.formats.system import SystemColumn
from rlhf.data.formats.turns import (
    HUMAN_ASSISTANT,
    check_prompts,
    pick,
    reply_of,
    spoken,
    two_speakers,
    waiting,
)
from rlhf.data.rows import Message

T = TypeVar("T")
PROMPT = "prompt"
_NUMBER = re.compile(r"\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\s*", re.ASCII)


@dataclass(frozen=True)
class Answer:
    """A reply, and the messages that stand before it in its own column.

    Attributes:
        before: empty, if the column holds no more than the reply.
        text: the reply.
        listed: whether the column holds messages.
        unread: names of keys of its messages that hold something nobody reads.
    """

    before: tuple[Message, ...]
    text: str
    listed: bool = False
    unread: frozenset[str] = frozenset()

    @property
    def is_whole(self) -> bool:
        """Whether its history begins in its own column."""
        return any(one.role == "user" for one in self.before[:2]) and (
            self.before[0].role != "assistant"
        )


class Compared:
    """A prompt, which may stand at the head of the replies' own dialogues, and the replies.

    Args:
        faults: where faults go.
        prompt: column or template; None: the dialogues hold it.
        speakers: names of user and assistant in transcripts.
        inline: turns of a transcript begin in the middle of a line.
        remove: a regular expression; what it matches is taken out of replies.
        prompts: templates with ``{}`` for the prompt.
        system: column of a system message; see ``SystemColumn``.
        taken: columns that the format reads as something else.

    Attributes:
        reads: columns that may be read.
        scored: whether each reply of a preference has a score, which rows keep.
    """

    scored = False

    def __init__(
        self,
        faults: Faults,
        prompt: str | None,
        speakers: Sequence[str] = HUMAN_ASSISTANT,
        inline: bool = False,
        remove: str | None = None,
        prompts: Sequence[str] | None = None,
        system: str | None = None,
        taken: frozenset[str] = frozenset(),
    ) -> None:
        check_prompts(faults, prompts)
        self._faults, self._prompt, self._inline = faults, prompt, inline
        self._speakers, self._prompts = two_speakers(faults, speakers), prompts
        self._columns, self._replied = Columns(faults), Columns(faults, remove)
        self._removes = remove is not None
        self._system = SystemColumn(faults, self._columns, system, taken)
        self.reads = taken | self._system.reads

    def _histories(
        self, record: dict[str, Any], answers: Sequence[Answer]
    ) -> list[tuple[Message, ...]] | None:
        """The history of each answer, or None after reporting a fault."""
        given = self._given(record, all(one.is_whole for one in answers))
        if given is None:
            return None
        found = []
        for one in answers:
            joined = self._joined(given, one.before)
            whole = self._system.before(record, joined) if joined is not None else None
            if whole is None:
                return None
            history = waiting(self._faults, whole, self._prompt or "the replies")
            if history is None:
                return None
            found.append(history)
        for name in frozenset().union(*(one.unread for one in answers)):
            self._faults.count_unread(name)
        return found

    def _given(self, record: dict[str, Any], whole: bool) -> list[Message] | None:
        """What the prompt's column holds: none, if it is absent and the dialogues are whole."""
        path = self._prompt
        if whole and self._prompts:
            self._report_prompt(there(record, path))
            return None
        if path is None or (whole and self._is_absent(record, path)):
            if whole:
                return []
            self._faults.report(
                "prompt_missing",
                "A reply has no prompt before it.",
                expected="dialogues that begin with the user, or a column for the prompt",
                hint="set `options.prompt` to the prompt's column",
            )
            return None
        value: Any
        if "{" in path:
            value = self._columns.text(record, path, "prompt")
        else:
            value = self._columns.value(record, path, "prompt")
        if value is None:
            return None
        if self._prompts:
            if not isinstance(value, str):
                self._report_prompt(value)
                return None
            value = pick(self._prompts, value).replace("{}", value)
        return spoken(self._faults, value, path, self._speakers, self._inline)

    def _report_prompt(self, value: Any) -> None:
        self._faults.report(
            "prompt_invalid",
            f"The prompt is {shown(value)}, or part of the replies' dialogues.",
            expected="one text, which `options.prompts` are put around, and replies to it",
            key=self._prompt,
        )

    def _is_absent(self, record: dict[str, Any], path: str) -> bool:
        try:
            return not holds_something(look_up(record, path))
        except KeyError:
            return path == PROMPT  # another name was given for a column that should be there

    def _joined(self, given: Sequence[Message], before: Sequence[Message]) -> list[Message] | None:
        """The history that the prompt and a reply's own dialogue make together."""
        told = [one for one in (*given[:1], *before[:1]) if one.role == "system"]
        if any(not _alike(one, told[0]) for one in told):
            self._faults.report(
                "system_differs",
                f"The system messages of one row differ: {shown(told[0].content)} and "
                f"{shown(next(one.content for one in told if not _alike(one, told[0])))}.",
                expected="the same one in the prompt and in the replies",
            )
            return None
        given = given[1:] if given and given[0].role == "system" else given
        own = before[1:] if before and before[0].role == "system" else before
        if given and own and own[0].role == "user":
            if len(given) > len(own) or not all(map(_alike, given, own)):
                self._faults.report(
                    "prompt_differs",
                    f"The prompt, {shown(given[-1].content)}, is not what the replies' dialogue "
                    f"begins with, {shown(own[0].content)}.",
                    expected="one history in both",
                    key=self._prompt,
                    hint="if the dialogues are whole without the prompt, set "
                    f"`options.prompt: null`; or {MEND}",
                )
                return None
            given = ()
        return [*told[-1:], *given, *own]

    def _answer(self, record: dict[str, Any], key: str, option: str) -> Answer | None:
        """The reply in a column, or None after reporting a fault."""
        if "{" in key:
            return self._said(self._replied.text(record, key, option), key)
        value = self._columns.value(record, key, option)
        return None if value is None else self._read(value, key, option)

    def _read(
        self, value: Any, key: str, option: str, position: int | None = None
    ) -> Answer | None:
        """A reply: a text, a message, or the messages that end with it."""
        if is_message(value):
            value = [value]
        if isinstance(value, list) and any(map(is_message, value)):
            return self._ends(value, key)
        of_list = position is not None
        several = isinstance(value, list) and len(value) != 1
        if several or (of_list and not isinstance(value, str)):
            self._faults.report_value(
                "column_type",
                key,
                value,
                "a text, a message or a list of messages",
                message=position,
                hint=MEND if of_list else part_of(value, key),
            )
            return None
        return self._said(self._replied.text({key: value}, key, option), key, position)

    def _score_in(self, record: dict[str, Any], key: str) -> int | float | None:
        """The number in a column of scores, or None after reporting a fault."""
        value = self._columns.value(record, key, "scores")
        number = as_number(value)
        if number is None and value is not None:
            self._faults.report_value("score_invalid", key, value, "a number")
        return number

    def _said(self, text: str | None, key: str, position: int | None = None) -> Answer | None:
        if text is not None:
            text = reply_of(self._faults, text, self._speakers, key, position)
        return None if text is None else Answer((), text)

    def _ends(self, raw: list[Any], key: str) -> Answer | None:
        """The reply that a list of messages ends with."""
        unread: set[str] = set()
        messages = read_messages(self._faults, raw, key, unread)
        if messages is None:
            return None
        if not messages or messages[-1].role != "assistant":
            self._faults.report(
                "no_reply",
                f"The dialogue in `{key}` does not end with a reply.",
                expected="the assistant's message last",
                key=key,
            )
            return None
        text: str | None = messages[-1].content
        if self._removes:
            text = self._replied.text({key: text}, key, "remove")
        if text is None:
            return None
        return Answer(tuple(messages[:-1]), text, True, frozenset(unread))


def _alike(one: Message, other: Message) -> bool:
    """Whether two messages say the same, whatever the space in them."""
    return one.role == other.role and one.content.split() == other.content.split()


def is_nothing(value: Any) -> bool:
    """Whether a cell is empty: null, what pandas writes for it, or a blank text."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not value.strip())


def as_number(value: Any) -> int | float | None:
    """A finite number, or the one that a text spells; None for anything else."""
    if isinstance(value, bool) or (isinstance(value, str) and not _NUMBER.fullmatch(value)):
        return None
    if isinstance(value, int):
        return value if abs(value) <= sys.float_info.max else None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def same(label: Any, other: Any) -> bool:
    """Whether a label is the other one: 1, 1.0 and "1" are, 1 and true are not."""
    if isinstance(label, bool) or isinstance(other, bool):
        return type(label) is type(other) and bool(label == other)
    numbers = as_number(label), as_number(other)
    if None not in numbers:
        return numbers[0] == numbers[1]
    if isinstance(label, str) and isinstance(other, str):
        return label.strip() == other.strip()
    return bool(label == other)


def without_ties(faults: Faults, places: Iterable[tuple[Any, T]]) -> list[T]:
    """Things in the order of their places; of those with equal ones the first is kept."""
    kept: dict[Any, T] = {}
    for place, one in sorted(places, key=lambda pair: pair[0]):
        if place in kept:
            faults.filtered["tie"] += 1
        kept.setdefault(place, one)
    return list(kept.values())
