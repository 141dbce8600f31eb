"""From the turns of a dialogue to rows; what all formats have in common."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from rlhf.data.formats.columns import shown
from rlhf.data.formats.faults import Faults
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
    faults: Faults, messages: Sequence[Message], expected: str = IN_TURN
) -> tuple[Message, ...] | None:
    """The messages, or None after reporting that they are out of turn."""
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
                else f"The role {role!r} is out of turn.",
                expected=expected,
                message=turn + 1 + len(messages) - len(turns),
            )
            return None
    if not turns:
        faults.report("no_messages", "Nobody says anything.", expected=expected)
        return None
    return tuple(messages)


def merged(messages: Iterable[Message]) -> list[Message]:
    """Messages with those that one role says in a row made one."""
    found: list[Message] = []
    for one in messages:
        if found and found[-1].role == one.role:
            found[-1] = Message(one.role, f"{found[-1].content}\n{one.content}")
        else:
            found.append(one)
    return found


def dialogue(row_id: str, messages: Sequence[Message]) -> list[Row]:
    """The conversation up to its last reply, and each history that ends with the user."""
    group = group_of(next(one.content for one in messages if one.role == "user"))
    rows: list[Row] = []
    replies = [i for i, one in enumerate(messages) if one.role == "assistant"]
    if replies:
        rows.append(Conversation(row_id, group, tuple(messages[: replies[-1] + 1])))
    prompts = [i for i, one in enumerate(messages) if one.role == "user"]
    for turn, last in enumerate(prompts, start=1):
        rows.append(Prompt(f"{row_id}/{turn}", group, tuple(messages[: last + 1])))
    return rows


def ranked(
    faults: Faults, row_id: str, history: Sequence[Message], replies: Sequence[str]
) -> list[Row]:
    """The best reply to imitate, all replies to compare, and the history as a prompt.

    Args:
        faults: counts replies that repeat a better one.
        row_id: id of the rows.
        history: ends with the user.
        replies: best first; a single one gives no preference.
    """
    group = group_of(next(one.content for one in history if one.role == "user"))
    history = tuple(history)
    texts: dict[str, str] = {}
    for reply in replies:
        if reply.strip() in texts:
            faults.filtered["duplicate_reply"] += 1
        texts.setdefault(reply.strip(), reply)
    kept = tuple(texts.values())
    rows: list[Row] = [Conversation(row_id, group, (*history, Message("assistant", kept[0])))]
    if len(kept) > 1:
        rows.append(Preference(row_id, group, history, kept))
    return [*rows, Prompt(row_id, group, history)]


def speaker_pattern(speakers: Sequence[str], inline: bool) -> re.Pattern[str]:
    """What a turn begins with: a speaker's name and a colon, in a paragraph of its own or not."""
    names = "|".join(map(re.escape, speakers))
    start = r"(?:\A|(?<=\s))[ \t]*" if inline else r"(?:\A\s*|\n[ \t\r]*\n\s*)"
    return re.compile(rf"{start}({names}):[ \t]*")


def split_turns(
    text: str, speakers: Sequence[str], inline: bool = False
) -> list[tuple[str, str]] | None:
    """Cut a transcript into (speaker, text); None if it does not begin with a speaker.

    A text keeps its paragraphs and is stripped at both ends.
    """
    parts = speaker_pattern(speakers, inline).split(text)
    if parts[0].strip() or len(parts) < 3:
        return None
    return [(parts[i], parts[i + 1].strip()) for i in range(1, len(parts), 2)]


def transcript(
    faults: Faults, text: str, speakers: Sequence[str], inline: bool, key: str
) -> list[Message] | None:
    """Messages of a transcript whose speakers are [user, assistant]; the last may be empty.

    Turns that one speaker has in a row become one. None after reporting a fault.
    """
    turns = split_turns(text, speakers, inline)
    if turns is None:
        faults.report(
            "no_speaker",
            f"Column `{key}` does not begin with a speaker: {shown(text)}.",
            expected=f"turns that begin with {' or '.join(f'`{one}:`' for one in speakers)}",
            key=key,
        )
        return None
    roles: dict[str, Role] = {speakers[0]: "user", speakers[1]: "assistant"}
    found = [Message(roles[who], said) for who, said in turns]
    empty = [i for i, one in enumerate(found[:-1], start=1) if not one.content]
    if empty:
        faults.report(
            "text_empty", "A turn is empty.", expected="a text", key=key, message=empty[0]
        )
        return None
    if not faults.is_unicode(text, key=key):
        return None
    # An empty last turn waits for its reply: it is no part of what stands before it.
    return [*merged(found[:-1]), found[-1]] if not found[-1].content else merged(found)


def history_of(
    faults: Faults, value: Any, key: str, speakers: Sequence[str], inline: bool
) -> tuple[Message, ...] | None:
    """The history that a prompt's column holds, or None after reporting a fault.

    Args:
        faults: where faults go.
        value: text; a transcript (``Human: … Assistant:``); a list of texts in turn, the user
            first; or a list of {role, content}.
        key: the column.
        speakers: names of user and assistant in transcripts.
        inline: turns of a transcript may begin in the middle of a line.
    """
    messages: list[Message] | None
    if isinstance(value, str) and value.strip():
        if value.lstrip().startswith(f"{speakers[0]}:"):
            ended = re.sub(rf"\s*\b{re.escape(speakers[1])}:\s*\Z", "", value)
            # `Human: a Assistant: b Human: c` on one line is how DeepSpeed-Chat writes turns.
            lone = len(split_turns(ended, speakers) or ()) == 1
            messages = transcript(faults, ended, speakers, inline or lone, key)
        else:
            messages = [Message("user", value)] if faults.is_unicode(value, key=key) else None
    elif isinstance(value, list) and value:
        messages = _listed(faults, value, key)
    else:
        faults.report(
            "prompt_invalid",
            f"Column `{key}` holds {shown(value)}.",
            expected="a text, a list of texts in turn, or a list of {role, content}",
            key=key,
        )
        return None
    if messages is None or in_turn(faults, messages) is None:
        return None
    if messages[-1].role != "user" or not messages[-1].content:
        faults.report(
            "role_order",
            f"Column `{key}` does not end with what the user says.",
            expected="a history that waits for a reply",
            key=key,
        )
        return None
    return tuple(messages)


def _listed(faults: Faults, value: list[Any], key: str) -> list[Message] | None:
    found: list[Message] = []
    for position, one in enumerate(value, start=1):
        role: Role | None
        if isinstance(one, dict):
            role = faults.role(one, NAMES, position)
            text = faults.text(one, "content", position) if role else None
        else:
            role = ("user", "assistant")[(position - 1) % 2]
            text = faults.text({key: one}, key, position)
        if role is None or text is None:
            return None
        found.append(Message(role, text))
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
