"""What one message of a list says: its text, the tools it calls, and whether it is trained."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.data.formats.columns import holds_something, unread_keys
from rlhf.data.formats.faults import MEND, Faults, shown
from rlhf.data.formats.labels import as_flag
from rlhf.data.formats.objects import CALLING, CALLS, TOOLS
from rlhf.data.formats.parts import joined, unread_of_parts

TRAINED = ("weight", "train", "trainable", "training", "loss")


class Contents:
    """Reads the messages of a list.

    Args:
        faults: where faults go.
        role: keys of a message's role, the first that is there counts.
        content: keys of its text, likewise.
        tool_calls: ``error``, or ``text``: calls and what tools give back become text.
        trained: key that says whether the message is trained; an empty name: none is read; None:
            those of ``TRAINED``.

    Raises:
        ConfigError: ``tool_calls`` is something else.
    """

    def __init__(
        self,
        faults: Faults,
        role: Sequence[str],
        content: Sequence[str],
        tool_calls: str,
        trained: str | None,
    ) -> None:
        if tool_calls not in ("error", "text"):
            raise faults.wrong_option("tool_calls", tool_calls, "error, or text")
        self._faults, self._role, self._content = faults, role, content
        self._write_calls = tool_calls == "text"
        self._trained = TRAINED if trained is None else tuple(filter(None, [trained]))

    @property
    def layout(self) -> str:
        """What a message looks like, for messages of faults."""
        return f"{{{self._role[0]}, {self._content[0]}}}"

    def role_key(self, raw: Mapping[str, Any]) -> str:
        """Where the role of a message stands."""
        return _first(self._role, raw)

    def says_nothing(self, raw: Mapping[str, Any]) -> bool:
        """Whether a message has neither a text nor calls."""
        keys = (_first(self._content, raw), *CALLS)
        return not any(holds_something(raw.get(key)) for key in keys)

    def text(self, raw: Mapping[str, Any], position: int) -> str | None:
        """What a message says, with the calls it makes, or None after reporting a fault."""
        key = _first(self._content, raw)
        said = raw.get(key)
        if _is_plain(raw) and isinstance(said, str) and said.strip() and not self._write_calls:
            return said if self._faults.is_unicode(said, position) else None
        role = raw.get(self.role_key(raw))
        calls = [one for name in CALLS for one in _listed(raw.get(name))]
        said = joined(self._faults, said, key, position)
        if said is None:
            return None
        if calls and not self._write_calls and not said.strip():
            self._faults.report(
                "tool_call",
                "A message calls a tool and says nothing.",
                expected=f"a text in `{key}`",
                message=position,
                hint="set `options.tool_calls: text` to write calls as text, as Hermes and Qwen "
                "do, and give the tool's role with `options.roles: {tool: user}`",
            )
            return None
        if self._write_calls:
            written = [_tagged("tool_call", _call(one)) for one in calls]
            if said.strip() and role in TOOLS:
                said = _tagged("tool_response", said)
            elif said.strip() and role in CALLING:
                said = _tagged("tool_call", said)
            said = "\n".join([*([said] if said.strip() else []), *written])
        hint = MEND
        if key not in raw and len(self._content) == 1:
            hint = (
                f"keys of the message are {', '.join(map(str, raw))}: name that of the text in "
                "`options.content`"
            )
        return self._faults.text({key: said}, key, position, hint)

    def trained(self, raw: Mapping[str, Any], position: int) -> bool | None:
        """Whether an assistant's message is trained, or None after reporting a fault."""
        found = set()
        for key in () if _is_plain(raw) else self._trained:
            value = raw.get(key)
            if not holds_something(value):
                continue
            flag = as_flag(value)
            if flag is None:
                self._faults.report(
                    "trained_invalid",
                    f"`{key}` of a message is {shown(value)}.",
                    expected="1 or true for a turn that is learned; 0 or false for one that is not",
                    message=position,
                    hint="mend it, or name another key in `options.trained`; with an empty name "
                    "all of the assistant's turns are learned",
                )
                return None
            found.add(flag)
        if len(found) == 2:
            self._faults.report(
                "trained_invalid",
                "A message is trained by one of its keys, and not by another.",
                expected=f"one of {', '.join(self._trained)}, or the same in all",
                message=position,
                hint="name the key that counts in `options.trained`",
            )
            return None
        return found != {False}

    def unread(self, raw: Mapping[str, Any], is_reply: bool) -> set[str]:
        """Keys of a message that hold something which is not read.

        Args:
            raw: the message.
            is_reply: it is the assistant's; the others' are never trained.
        """
        content = _first(self._content, raw)
        if _is_plain(raw) and isinstance(raw.get(content), str):
            return set()
        read = {self.role_key(raw), content, *(CALLS if self._write_calls else ())}
        unread = unread_keys(raw, read)
        # That someone else's turn is not trained is what happens to it.
        unread -= {one for one in self._trained if is_reply or as_flag(raw.get(one)) is False}
        return unread | unread_of_parts(raw.get(content), content)


def _is_plain(raw: Mapping[str, Any]) -> bool:
    """Whether a message has nothing beside its role and text, as most do."""
    return len(raw) == 2


def _first(keys: Sequence[str], raw: Mapping[str, Any]) -> str:
    """The first of some keys that holds something, or that is there; the first of all if none."""
    if len(keys) == 1 or raw.get(keys[0]):
        return keys[0]
    there = [one for one in keys if one in raw]
    return next((one for one in there if holds_something(raw[one])), (there or [keys[0]])[0])


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if holds_something(value) else []


def _call(raw: Any) -> str:
    """A call as JSON of its name and arguments, which the APIs write as text inside of JSON."""
    call = raw.get("function", raw) if isinstance(raw, dict) else raw
    if not isinstance(call, dict) or "name" not in call:
        return json.dumps(call, ensure_ascii=False)
    arguments = call.get("arguments")
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError):  # no JSON: it stays the text that it is
            arguments = json.loads(arguments)
    return json.dumps({"name": call["name"], "arguments": arguments}, ensure_ascii=False)


def _tagged(tag: str, text: str) -> str:
    """A text in a tag, unless it is already, as in Hermes' own data."""
    begin, end = f"<{tag}>", f"</{tag}>"
    return text if text.lstrip().startswith(begin) else f"{begin}\n{text}\n{end}"
