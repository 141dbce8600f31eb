"""Texts that may come in parts: ``[{"type": "text", "text": …}, …]``, as chat APIs write them."""

from __future__ import annotations

from typing import Any

from rlhf.data.formats.columns import holds_something, unread_keys
from rlhf.data.formats.faults import MEND, Faults, shown

TEXTS = (None, "text", "input_text", "output_text")  # types of a part that is text


def joined(
    faults: Faults, value: Any, key: str, message: int | None = None, column: str | None = None
) -> str | None:
    """A text, or those of a list of parts put together as chat templates do.

    Empty, if there is none; None after reporting a part that is no text.

    Args:
        faults: where faults go.
        value: a text, a part, or a list of both.
        key: where it stands, for messages of faults.
        message: position of the message whose text it is.
        column: the column, likewise.
    """
    if not holds_something(value):
        return ""
    texts = []
    for part in value if isinstance(value, list) else [value]:
        text = part.get("text") if isinstance(part, dict) else part
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in TEXTS:
            faults.report(
                "part_unknown",
                f"`{key}` holds a part of the type {kind!r}, which is no text.",
                expected="parts of the type 'text' only",
                message=message,
                key=column,
                hint=f"take such parts or rows out: models here read text only; or {MEND}",
            )
            return None
        if text is None and isinstance(part, dict) and {"type", "text"} & part.keys():
            text = ""
        if not isinstance(text, str):
            faults.report(
                "text_type",
                f"`{key}` holds {shown(part)}.",
                expected="a text, or a list of parts {type: text, text: …}",
                message=message,
                key=column,
            )
            return None
        texts.append(text)
    return "".join(texts)


def unread_of_parts(value: Any, path: str) -> set[str]:
    """Names of what parts hold beside their texts, as ``path[].name``."""
    parts = [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
    return {f"{path}[].{key}" for one in parts for key in unread_keys(one, ("type", "text"))}
