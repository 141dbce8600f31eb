"""From the turns of a dialogue to rows; what all formats have in common."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from rlhf.data.formats.faults import MEND, Faults, shown
from rlhf.data.formats.objects import is_message, read_messages
from rlhf.data.rows import ROLES, Conversation, Message, Preference, Prompt, Role, Row
from rlhf.data.split import group_of

T = TypeVar("T")
NAMES: dict[str, Role] = dict(zip(ROLES, ROLES, strict=True))
HUMAN_ASSISTANT = ("Human", "Assistant")
IN_TURN = "a system message first if at all, then user and assistant in turn"


def pick(choices: Sequence[T], text: str) -> T:
    """One of the choices, drawn by a digest of the text: the same in every run and order."""
    drawn = hashlib.sha256(text.encode()).digest()[:8]
    return choices[int.from_bytes(drawn, "big") % len(choices)]


def in_turn(
    faults: Faults, messages: Sequence[Message], expected: str = IN_TURN, repeated_hint: str = MEND
) -> tuple[Message, ...] | None:
    """The messages, or None after reporting that they are out of turn.

    ``repeated_hint`` says what to do about two messages of one role in a row.
    """
    turns = [one.role for one in messages]
    if turns[:1] == ["system"]:
        turns = turns[1:]
    for turn, role in enumerate(turns):
        if role != ("user", "assistant")[turn % 2]:
            repeated = turn > 0 and role == turns[turn - 1]
            faults.report(
                "role_repeated" if repeated else "role_order",
                f"Two messages of the role {role!r} follow each other."
                if repeated
                else f"The role {role!r} is out of turn"
                + (": it speaks first." if turn == 0 and role == "assistant" else "."),
                expected=expected,
                message=turn + 1 + len(messages) - len(turns),
                hint=repeated_hint if repeated else MEND,
            )
            return None
    if not turns:
        faults.report("no_messages", "Nobody says anything.", expected=expected)
        return None
    return tuple(messages)


def merged(messages: Iterable[Message], gap: str = "\n") -> list[Message]:
    """Messages with those that one role says in a row made one."""
    found: list[Message] = []
    for one in messages:
        if found and found[-1].role == one.role:
            content = f"{found[-1].content}{gap}{one.content}"
            found[-1] = Message(one.role, content, trained=one.trained)
        else:
            found.append(one)
    return found


def group_of_turns(messages: Iterable[Message]) -> str:
    """The group that a dialogue's rows belong to: that of what the user says first."""
    return group_of(next(one.content for one in messages if one.role == "user"))


def dialogue(row_id: str, messages: Sequence[Message]) -> list[Row]:
    """The conversation up to its last reply, and each history that ends with the user."""
    group = group_of_turns(messages)
    rows: list[Row] = []
    replies = [i for i, one in enumerate(messages) if one.role == "assistant"]
    if replies:
        rows.append(Conversation(row_id, group, tuple(messages[: replies[-1] + 1])))
    prompts = [i for i, one in enumerate(messages) if one.role == "user"]
    for turn, last in enumerate(prompts, start=1):
        rows.append(Prompt(f"{row_id}/{turn}", group, tuple(messages[: last + 1])))
    return rows


def prompts_only(faults: Faults, rows: Sequence[Row], reason: str) -> list[Row]:
    """Rows without their demonstrations, which are counted as filtered for a reason."""
    kept: list[Row] = [one for one in rows if not isinstance(one, Conversation)]
    if len(kept) < len(rows):
        faults.filtered[reason] += len(rows) - len(kept)
    return kept


def ranked(
    faults: Faults,
    row_id: str,
    history: Sequence[Message],
    replies: Sequence[str],
    scores: Sequence[float] = (),
) -> list[Row]:
    """The best reply to imitate, all replies to compare, and the history as a prompt.

    Args:
        faults: counts replies that repeat a better one.
        row_id: id of the rows.
        history: ends with the user.
        replies: best first; a single one gives no preference.
        scores: of each reply; empty: they have none.
    """
    group = group_of_turns(history)
    history = tuple(history)
    texts: dict[str, int] = {}
    for number, reply in enumerate(replies):
        if reply.strip() in texts:
            faults.filtered["duplicate_reply"] += 1
        texts.setdefault(reply.strip(), number)
    kept = tuple(replies[number] for number in texts.values())
    own = tuple(float(scores[number]) for number in texts.values()) if scores else ()
    rows: list[Row] = [Conversation(row_id, group, (*history, Message("assistant", kept[0])))]
    if len(kept) > 1:
        rows.append(Preference(row_id, group, history, kept, scores=own))
    return [*rows, Prompt(row_id, group, history)]


def speaker_pattern(speakers: Sequence[str], inline: bool) -> re.Pattern[str]:
    """What a turn begins with: a speaker's name and a colon, in a paragraph of its own or not.

    In a line, a name begins a word, unless it begins with a sign (``### Human``, ``<bot>``).
    """
    names = "|".join(map(re.escape, speakers))
    start = r"(?:\A|(?<=\s)|(?=[^\w\s]))[ \t]*" if inline else r"(?:\A\s*|\n[ \t\r]*\n\s*)"
    return re.compile(rf"{start}({names}):[ \t]*")


def without_mark(text: str, speakers: Sequence[str]) -> str:
    """A transcript without the assistant's name that waits for a reply at its end."""
    return re.sub(rf"\s*(?<!\w){re.escape(speakers[1])}:\s*\Z", "", text)


def reply_of(
    faults: Faults, text: str, speakers: Sequence[str], key: str | None, position: int | None = None
) -> str | None:
    """A reply without the assistant's name before it, or None after reporting that it is empty."""
    reply = text.strip().removeprefix(f"{speakers[1]}:").strip()
    if not reply:
        faults.report(
            "text_empty",
            f"Column `{key}` is empty.",
            expected="a reply",
            message=position,
            key=key,
        )
    return reply or None


def transcript(
    faults: Faults, text: str, speakers: Sequence[str], inline: bool, key: str
) -> list[Message] | None:
    """Messages of a transcript whose speakers are [user, assistant]; the last may be empty.

    A text keeps its paragraphs and is stripped at both ends. Turns that one speaker has in a row
    become one, and stay paragraphs of it if they were. None after reporting a fault.
    """
    parts = speaker_pattern(speakers, inline).split(text)
    if parts[0].strip() or len(parts) < 3:
        faults.report(
            "no_speaker",
            f"Column `{key}` does not begin with a speaker: {shown(text)}.",
            expected=f"turns that begin with {' or '.join(f'`{one}:`' for one in speakers)}",
            key=key,
        )
        return None
    roles: dict[str, Role] = {speakers[0]: "user", speakers[1]: "assistant"}
    found: list[Message] = []
    gap = ""
    for turn, (who, raw) in enumerate(zip(parts[1::2], parts[2::2], strict=True), start=1):
        said, last = raw.strip(), 2 * turn + 1 == len(parts)
        if not said and not last:
            faults.report(
                "text_empty", "A turn is empty.", expected="a text", key=key, message=turn
            )
            return None
        # An empty last turn waits for its reply: it is no part of what stands before it.
        if said and found and found[-1].role == roles[who]:
            found[-1] = Message(roles[who], f"{found[-1].content}{gap}{said}")
        else:
            found.append(Message(roles[who], said))
        paragraph = not inline or re.search(r"\n[ \t\r]*\n\s*\Z", raw)
        gap = "\n\n" if paragraph else "\n"
    return found if faults.is_unicode(text, key=key) else None


def spoken(
    faults: Faults, value: Any, key: str, speakers: Sequence[str], inline: bool
) -> list[Message] | None:
    """The messages that a prompt's column holds, or None after reporting a fault.

    Args:
        faults: where faults go.
        value: text; a transcript (``Human: … Assistant:``); a list of texts in turn, the user
            first; or a message or a list of messages, see ``objects``.
        key: the column.
        speakers: names of user and assistant in transcripts.
        inline: turns of a transcript may begin in the middle of a line.
    """
    if isinstance(value, str) and value.strip():
        if value.lstrip().startswith(f"{speakers[0]}:"):
            return transcript(faults, without_mark(value, speakers), speakers, inline, key)
        return [Message("user", value)] if faults.is_unicode(value, key=key) else None
    if is_message(value):
        value = [value]
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        return read_messages(faults, value, key)
    if isinstance(value, list) and value:
        found: list[Message] = []
        for position, one in enumerate(value, start=1):
            text = faults.text({key: one}, key, position)
            if text is None:
                return None
            found.append(Message("user" if position % 2 else "assistant", text))
        return found
    faults.report_value(
        "prompt_invalid", key, value, "a text, a list of texts in turn, or a list of messages"
    )
    return None


def waiting(faults: Faults, messages: Sequence[Message], key: str) -> tuple[Message, ...] | None:
    """Messages that wait for a reply, or None after reporting that they do not."""
    found = in_turn(faults, messages)
    if found is not None and (found[-1].role != "user" or not found[-1].content):
        faults.report(
            "role_order",
            f"Column `{key}` does not end with what the user says.",
            expected="a history that waits for a reply",
            key=key,
        )
        return None
    return found


def two_speakers(faults: Faults, speakers: Sequence[str]) -> tuple[str, str]:
    """The option ``speakers``, checked."""
    named = isinstance(speakers, list | tuple) and all(type(one) is str and one for one in speakers)
    if not named or len(set(speakers)) != 2:
        raise faults.wrong_option("speakers", speakers, "two names, such as [Human, Assistant]")
    return speakers[0], speakers[1]


def check_prompts(faults: Faults, prompts: Sequence[str] | None) -> None:
    """Refuse templates that have no place for the text."""
    if prompts is None:
        return
    listed = isinstance(prompts, list | tuple) and bool(prompts)
    if not listed or not all(isinstance(one, str) and "{}" in one for one in prompts):
        raise faults.wrong_option(
            "prompts", prompts, 'a list of texts with {} in each: ["Sum up: {}"]'
        )
