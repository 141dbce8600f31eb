"""Builders of Open-Assistant message trees."""

from __future__ import annotations

from typing import Any


def user(name: str, *replies: dict[str, Any], text: str | None = None, **more: Any) -> dict:
    return _message(name, "prompter", replies, text, more)


def bot(name: str, rank: int | None = None, *replies: dict, text: str | None = None, **more: Any):
    return _message(name, "assistant", replies, text, {"rank": rank} | more)


def tree(prompt: dict[str, Any], **more: Any) -> dict[str, Any]:
    identity = {"message_tree_id": prompt.get("message_id"), "tree_state": "ready_for_export"}
    return identity | {"prompt": prompt} | more


def _message(name: str, role: str, replies: tuple, text: str | None, more: dict) -> dict[str, Any]:
    return {
        "message_id": name,
        "text": f"text of {name}" if text is None else text,
        "role": role,
        "lang": "en",
        "review_result": True,
        "deleted": False,
        "synthetic": False,
        "replies": list(replies),
    } | more
