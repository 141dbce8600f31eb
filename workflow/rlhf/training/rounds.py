"""Which rank computes which rows, and in which pass: planned alike on every rank.

Sharded engines compute in lockstep: a forward or backward pass on one rank waits for the others'.
So every rank runs the same number of micro-batches, its rounds, and side by side stand those of
like cost. The plan follows from lengths that all ranks know; nothing is communicated.
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
        counts: whether they count; if not, the loss is taken times zero: another rank has the
            same row, and this one only keeps step.
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
    the costlier of a round to another end of the ranks each time. Where there are fewer rows than
    ranks some ranks run the shortest row, which does not count.

    Args:
        shapes: for each row the padded rows that it takes, and their tokens.
        max_tokens: padded tokens of a micro-batch, or one row.
        ranks: number of ranks.
    """
    if not shapes:
        return [[] for _ in range(ranks)]
    counts, lengths = [rows for rows, _ in shapes], [tokens for _, tokens in shapes]
    batches = batches_by_length(lengths, max_tokens, counts=counts)
    rounds = -(-len(batches) // ranks)
    if ranks > 1:
        batches = split(batches, shapes, rounds * ranks)
        batches.sort(key=lambda batch: -_cost(batch, shapes))
    filler = Round([min(range(len(shapes)), key=lambda i: (_cost([i], shapes), i))], counts=False)
    plan: list[list[Round]] = [[] for _ in range(ranks)]
    for number in range(rounds):
        side_by_side = [Round(batch) for batch in batches[number * ranks : (number + 1) * ranks]]
        side_by_side += [filler] * (ranks - len(side_by_side))
        for rank, one in enumerate(side_by_side if number % 2 == 0 else side_by_side[::-1]):
            plan[rank].append(one)
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


def _cost(batch: list[int], shapes: Sequence[tuple[int, int]]) -> int:
    """Padded tokens."""
    return sum(shapes[i][0] for i in batch) * max(shapes[i][1] for i in batch)
