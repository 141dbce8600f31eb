"""Messages of rows, and what rows say and what was counted in a form that is easily compared."""

from __future__ import annotations

from typing import Any


def said(row: Any) -> list[tuple[str, str]]:
    messages = getattr(row, "messages", None) or row.history
    return [(one.role[0], one.content) for one in messages]


def counted(rows: Any) -> dict[str, int]:
    return {reason: count for reason, count in rows.counts.items() if count}


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def bot(text: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def system(text: Any) -> dict[str, Any]:
    return {"role": "system", "content": text}


def gpt(text: Any) -> dict[str, Any]:
    return {"from": "gpt", "value": text}


def human(text: Any) -> dict[str, Any]:
    return {"from": "human", "value": text}
