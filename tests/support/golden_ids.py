"""How golden files write the ids of a dialogue: those that are trained have a star."""

from __future__ import annotations

from typing import Any

from rlhf.data.encoding import Encoder
from rlhf.data.labels import IGNORED
from rlhf.data.rows import Message

DIALOGUE = (
    Message("system", "Be kind."),
    Message("user", "What is a tree?"),
    Message("assistant", "A graph\n\nwithout cycles: 2024. 🌳"),
    Message("user", "And a forest?"),
    Message("assistant", "Many trees."),
)


def written(tokenizer: Any) -> str:
    """The ids of ``DIALOGUE`` with a tokenizer and the template that it stores."""
    ids, labels = Encoder(tokenizer).conversation(DIALOGUE)
    stars = ("*" if label != IGNORED else "" for label in labels)
    return " ".join(f"{one}{star}" for one, star in zip(ids, stars, strict=True))
