"""A small valid configuration, and a way to change it."""

from __future__ import annotations

from typing import Any

VALID: dict[str, Any] = {
    "models": {"tiny": {"source": {"path": "models/tiny"}}},
    "datasets": {"demo": {"path": "demo.jsonl", "format": "oasst"}},
    "sft": {"chat": {"model": "tiny", "data": {"demo": {}}}},
    "reward": {"helpful": {"sft": "chat", "data": {"demo": {}}}},
    "ppo": {"final": {"sft": "chat", "reward": "helpful", "data": {"demo": {}}}},
    "evaluation": {"final": {"ppo": "final"}},
    "report": {"final": {"evaluations": ["final"]}},
}


def put(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Set a dotted key; sections on the way are made."""
    *sections, last = path.split(".")
    inner = values
    for section in sections:
        inner = inner.setdefault(section, {})
    inner[last] = value
    return values
