"""Messages as objects: ``{role, content}`` or ``{from, value}``, their texts whole or in parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.data.formats.columns import holds_something, unread_keys
from rlhf.data.formats.faults import Faults, shown
from rlhf.data.formats.parts import joined, unread_of_parts
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
TOOLS = ("tool", "function", "observation", "ipython", "tool_response")  # what a tool gives back
CALLING = ("function_call", "tool_call")  # roles of a message that calls a tool
CALLS = ("tool_calls", "function_call")  # keys of a message


def is_message(value: Any) -> bool:
    """Whether a value is an object that says whose turn it is."""
    return isinstance(value, Mapping) and any(key in value for key in ROLE_KEYS)


def lists_of_messages(record: Mapping[str, Any]) -> list[str]:
    """Paths of the lists of messages in a row, and in the objects that it holds."""
    found = []
    for name, value in record.items():
        inner = value if isinstance(value, Mapping) else {}
        for path, one in ((name, value), *((f"{name}.{key}", inner[key]) for key in inner)):
            if isinstance(one, list) and one and all(map(is_message, one)):
                found.append(path)
    return found


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
        if _is_no_system(one):
            continue
        message = _message(faults, one, column, position, names)
        if message is None:
            return None
        found.append(message)
    if unread is None:
        for name in names:
            faults.count_unread(name)
    return found


def _is_no_system(raw: Any) -> bool:
    """Whether a message is the system's and says nothing, which is as good as none."""
    if not isinstance(raw, Mapping):
        return False
    name = next((raw[key] for key in ROLE_KEYS if raw.get(key) is not None), None)
    is_system = isinstance(name, str) and ROLES.get(name.strip().casefold()) == "system"
    return is_system and not any(holds_something(raw.get(one)) for one in (*TEXT_KEYS, *CALLS))


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
    called = [key for key in CALLS if holds_something(raw.get(key))]
    if called or known in (*TOOLS, *CALLING):
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
    unread.update(f"{column}[].{key}" for key in unread_keys(raw, (who, told)))
    unread.update(unread_of_parts(raw.get(told), f"{column}[].{told}"))
    said = joined(faults, raw.get(told), told, position)
    text = None if said is None else faults.text({told: said}, told, position)
    return None if text is None else Message(role, text)
