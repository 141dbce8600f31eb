"""Messages as objects: ``{role, content}`` or ``{from, value}``, their texts whole or in parts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rlhf.data.formats.columns import holds_something, shown
from rlhf.data.formats.faults import Faults
from rlhf.data.rows import Message, Role

ROLE_KEYS = ("role", "from")
TEXT_KEYS = ("content", "value", "text")
# What files call the three roles; the case of letters says nothing.
ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
TOOL_ROLES = ("tool", "function", "observation", "function_call", "tool_call", "tool_response")
TOOL_KEYS = ("tool_calls", "function_call")
TEXT_PARTS = (None, "text", "input_text", "output_text")


def is_message(value: Any) -> bool:
    """Whether a value is an object that says whose turn it is."""
    return isinstance(value, Mapping) and any(key in value for key in ROLE_KEYS)


def read_messages(
    faults: Faults, raw: Sequence[Any], column: str, unread: set[str] | None = None
) -> list[Message] | None:
    """The messages of a list of objects, or None after reporting a fault.

    Tool calls, and parts that are no text, are faults: a message without them says something else.

    Args:
        faults: where faults go.
        raw: the objects; texts may be lists of parts ``{"type": "text", "text": …}``.
        column: where they stand, for messages.
        unread: takes the names of keys that hold something nobody reads; None: they are counted
            at once.
    """
    names: set[str] = set() if unread is None else unread
    found: list[Message] = []
    for position, one in enumerate(raw, start=1):
        message = _message(faults, one, column, position, names)
        if message is None:
            return None
        found.append(message)
    if unread is None:
        faults.unread.update(names)
    return found


def _message(
    faults: Faults, raw: Any, column: str, position: int, unread: set[str]
) -> Message | None:
    if not isinstance(raw, Mapping):
        faults.report(
            "not_a_message",
            f"A message is {shown(raw)}.",
            expected="an object with a role and a text",
            message=position,
            key=column,
        )
        return None
    who = next((key for key in ROLE_KEYS if raw.get(key) is not None), ROLE_KEYS[0])
    told = next((key for key in TEXT_KEYS if raw.get(key) is not None), TEXT_KEYS[0])
    name = raw.get(who)
    known = name.strip().casefold() if isinstance(name, str) else ""
    called = [key for key in TOOL_KEYS if holds_something(raw.get(key))]
    if called or known in TOOL_ROLES:
        what = f"calls tools (`{called[0]}`)" if called else f"has the role {name!r} of a tool"
        faults.report(
            "tool_calls",
            f"A message {what}.",
            expected="what system, user and assistant say, as text",
            message=position,
            key=column,
        )
        return None
    role = ROLES.get(known) or faults.role(raw, ROLES, position, who)
    if role is None:
        return None
    _note_unread(raw, (who, told), f"{column}[]", unread)
    content = raw.get(told)
    if isinstance(content, list) and content:
        content = _joined(faults, content, f"{column}[].{told}", position, unread)
        if content is None:
            return None
    text = faults.text({told: content}, told, position)
    return None if text is None else Message(role, text)


def _joined(
    faults: Faults, parts: list[Any], path: str, position: int, unread: set[str]
) -> str | None:
    """The text of a message that comes in parts, or None after reporting one that is no text."""
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get("text") if isinstance(part, Mapping) else part
        if kind not in TEXT_PARTS or not isinstance(text, str):
            faults.report(
                "part_type",
                f"A message has a part of the type {kind!r}."
                if kind not in TEXT_PARTS
                else f"A part of a message is {shown(part)}.",
                expected='texts, or parts {"type": "text", "text": …}',
                message=position,
            )
            return None
        if isinstance(part, Mapping):
            _note_unread(part, ("type", "text"), f"{path}[]", unread)
        texts.append(text)
    return "".join(texts)


def _note_unread(
    raw: Mapping[Any, Any], read: Collection[str], path: str, unread: set[str]
) -> None:
    unread.update(
        f"{path}.{key}" for key, value in raw.items() if key not in read and holds_something(value)
    )
