"""Which part of a dialogue is kept where the whole is too long."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property
from random import Random

from rlhf.data.encoding import Encoder
from rlhf.data.pieces import Ids
from rlhf.data.rows import Message


class Part:
    """Some messages of a dialogue, with the ids of their texts, in the template."""

    def __init__(
        self,
        messages: Sequence[Message],
        texts: Sequence[Ids],
        encoder: Encoder,
        prompt: bool,
    ) -> None:
        self.messages, self.texts = tuple(messages), list(texts)
        self.encoded = encoder.join(self.messages, self.texts, prompt)
        self._encoder, self._prompt = encoder, prompt

    def __len__(self) -> int:
        return len(self.encoded[0])

    @cached_property
    def first(self) -> int:
        """The first message that is not the system's."""
        return count_system(self.messages)

    @cached_property
    def questions(self) -> list[int]:
        """The messages that are the user's."""
        return [i for i, one in enumerate(self.messages) if one.role == "user"]

    def turns(self, start: int, end: int) -> Part:
        """What is said from message ``start`` to ``end``, after the system's first messages."""
        kept = [*range(self.first), *range(start, end)]
        messages = [self.messages[i] for i in kept]
        # Not the same ids: what stands before a text now may leave it another space.
        return Part(messages, self._encoder.texts(messages), self._encoder, self._prompt)

    def without(self, tokens: int) -> Part:
        """Without the first tokens of the first thing that is said."""
        texts = [*self.texts]
        texts[self.first] = texts[self.first][tokens:]
        return Part(self.messages, texts, self._encoder, self._prompt)


def last_part(part: Part, room: int, least: int | None, how: set[str]) -> Part | None:
    """The last turns that fit, the first of them cut if it must be; None when nothing fits.

    Args:
        part: a dialogue that is too long.
        room: tokens that there are.
        least: tokens that a cut leaves of the question; None: it stays whole.
        how: ways in which it was cut are added; ``whole`` if nothing fits for the whole question.
    """
    last = part
    for start in part.questions[1:]:
        how.add("turns")
        last = part.turns(start, len(part.messages))
        if len(last) <= room:
            return last
    over, length = len(last) - room, len(last.texts[last.first])
    if least is None and length > over:
        how.add("whole")
    if least is None or length - over < min(least, length):
        return None
    how.add("question")
    return last.without(over)


def random_part(part: Part, room: int, draw: Random) -> Part | None:
    """Turns from a random question on, as many as fit; None when no turn fits whole.

    The beginnings are all from which something has to go, at either end.
    """
    ends = [*part.questions[1:], len(part.messages)]
    turns = list(zip(part.questions, ends, strict=True))
    starts = []
    for start, end in turns:
        if len(part.turns(start, end)) <= room:
            starts.append(start)
        if len(part.turns(start, len(part.messages))) <= room:
            break
    if not starts:
        return None
    start = draw.choice(starts)
    found = None
    for end in (end for end in ends if end > start):
        longer = part.turns(start, end)
        if len(longer) > room:
            break
        found = longer
    return found


def count_system(messages: Sequence[Message]) -> int:
    """How many of the first messages are the system's."""
    return sum(1 for _ in itertools.takewhile(lambda one: one.role == "system", messages))
