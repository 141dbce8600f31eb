"""Reply tags: what is known of a reply, written before it, so that it can be asked for later.

A tag is a system message right before the reply, one property a line, as in Open-Assistant:
``lang: en``, ``quality: 0.8``, ``humor: 0.1``, ``creativity: 0.3``, ``length: 4``, and last
``context: …``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random

from rlhf.data.rows import RATINGS, Message

_WORD = re.compile(r"\w+")
WORDS_A_STEP = 5  # one step of ``length``


@dataclass(frozen=True)
class ReplyTags:
    """How tags are written.

    Attributes:
        dropout: probability that a property is left out, each by itself.
        length: write the length of the reply too.
    """

    dropout: float
    length: bool

    def write(self, reply: Message, draw: Random) -> str:
        """The tag of a reply, ``""`` when nothing is left to say.

        The order and the dropout are drawn as Open-Assistant draws them: the same random state
        gives the same text.
        """
        known = reply.properties
        found = [(name, getattr(known, name)) for name in ("lang", *RATINGS)] if known else []
        entries = [(name, value) for name, value in found if value is not None]
        if self.length:
            entries.append(("length", len(_WORD.findall(reply.content)) // WORDS_A_STEP + 1))
        draw.shuffle(entries)
        if known and known.context:
            entries.append(("context", known.context))  # may have many lines, so it is the last
        kept = [entry for entry in entries if draw.random() >= self.dropout]
        lines = [
            f"{name}: {value:0.1f}\n" if name in RATINGS else f"{name}: {value}\n"
            for name, value in kept
            if not (isinstance(value, str) and value.isspace())
        ]
        return "".join(lines)

    def before(self, reply: Message, draw: Random) -> tuple[Message, ...]:
        """The reply with its tag in front."""
        tag = self.write(reply, draw)
        return (Message("system", tag), reply) if tag else (reply,)

    def insert(self, messages: Iterable[Message], draw: Random) -> Iterator[Message]:
        """A dialogue with a tag before each reply."""
        for message in messages:
            yield from self.before(message, draw) if message.role == "assistant" else (message,)
