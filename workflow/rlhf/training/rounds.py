"""Which rank computes which rows, and in which pass: planned alike on every rank.

Sharded engines compute in lockstep: a forward or backward pass on one rank waits for the others'.
So every rank runs the same number of micro-batches, its rounds, and side by side stand those of
like cost. The plan follows from lengths that all ranks know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf.data.batching import batches_by_length


@dataclass(frozen=True)
class Round:
    """One micro-batch of one rank.

    Attributes:
        rows: indices of its rows, at least one.
        counts: whether they count; if not, the loss is taken times zero: the same row counts in
            another round, and this one only keeps step.
    """

    rows: list[int]
    counts: bool = True

    @property
    def weight(self) -> float:
        """1, or 0 where the rows do not count."""
        return float(self.counts)


def plan_rounds(
    shapes: Sequence[tuple[int, int]], max_tokens: int, ranks: int
) -> list[list[Round]]:
    """The rounds of every rank, as many on each; rank → its rounds.

    Rows of like lengths share a micro-batch. Micro-batches are halved, the costliest first, until
    their number is a multiple of the ranks'; then those of like cost are dealt out side by side,
    the costlier of a round to another end of the ranks each time (``equal_rounds``).

    Args:
        shapes: for each row the padded rows that it takes, and their tokens.
        max_tokens: padded tokens of a micro-batch, or one row.
        ranks: number of ranks.
    """
    counts, lengths = [rows for rows, _ in shapes], [tokens for _, tokens in shapes]
    batches = batches_by_length(lengths, max_tokens, counts=counts)
    if ranks > 1:
        batches = split(batches, shapes, -(-len(batches) // ranks) * ranks)
        batches = _costliest_first(batches, shapes)
    dealt: list[list[list[int]]] = [[] for _ in range(ranks)]
    for i, batch in enumerate(batches):
        number, place = divmod(i, ranks)
        dealt[place if number % 2 == 0 else ranks - 1 - place].append(batch)
    return equal_rounds(dealt, [shapes] * ranks)


def equal_rounds(
    batches: Sequence[Sequence[list[int]]], shapes: Sequence[Sequence[tuple[int, int]]]
) -> list[list[Round]]:
    """As many rounds on every rank, from micro-batches that each has already; rank → its rounds.

    A rank with fewer micro-batches than another halves its costliest, as far as rows go, and then
    runs the shortest row that it knows, which does not count. Of several ranks each begins with
    its costliest micro-batch, so that those of like cost stand side by side.

    Args:
        batches: rank → its micro-batches, of rows that it knows; there may be none.
        shapes: rank → for each row that it knows the padded rows that it takes, and their tokens.
    """
    count = max(map(len, batches))
    plan = []
    for own, known in zip(batches, shapes, strict=True):
        costs = [_cost([i], known) for i in range(len(known))]
        parts = split(own, known, count)
        if len(batches) > 1:
            parts = _costliest_first(parts, known)
        rounds = [Round(part) for part in parts]
        rounds += [  # each an object of its own: `each is rounds[-1]` tells the last one
            Round([costs.index(min(costs))], counts=False) for _ in range(count - len(rounds))
        ]
        plan.append(rounds)
    return plan


def split(
    batches: Sequence[list[int]], shapes: Sequence[tuple[int, int]], count: int
) -> list[list[int]]:
    """The batches, the costliest halved until there are ``count``, as far as rows go."""
    parts = list(batches)
    while len(parts) < count:
        large = [i for i, part in enumerate(parts) if len(part) > 1]
        if not large:
            break
        place = max(large, key=lambda i: (_cost(parts[i], shapes), -i))
        part = parts[place]
        parts[place : place + 1] = [part[: len(part) // 2], part[len(part) // 2 :]]
    return parts


def _costliest_first(
    batches: Sequence[list[int]], shapes: Sequence[tuple[int, int]]
) -> list[list[int]]:
    return sorted(batches, key=lambda batch: -_cost(batch, shapes))


def _cost(batch: list[int], shapes: Sequence[tuple[int, int]]) -> int:
    """Padded tokens."""
    return sum(shapes[i][0] for i in batch) * max(shapes[i][1] for i in batch)
