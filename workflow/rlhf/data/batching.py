"""Rows of like lengths together, so that little of a padded batch is padding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

Lengths = Sequence[int] | Mapping[int, int]


def batches_by_length(
    lengths: Lengths,
    max_tokens: int,
    *,
    indices: Iterable[int] | None = None,
    counts: Lengths | None = None,
    max_rows: int | None = None,
    alike: float = 0.0,
) -> list[list[int]]:
    """Indices, longest first, in batches for one forward pass each.

    A batch has at most ``max_tokens`` padded tokens, or one index.

    Args:
        lengths: index → tokens of its longest row.
        max_tokens: rows × longest of a batch.
        indices: those that are wanted; None: all of a sequence's.
        counts: index → rows that it brings; None: one each.
        max_rows: rows of a batch; None: as many as fit.
        alike: rows are at least this share of the longest in their batch: on a CPU every padded
            token costs as much as a real one.
    """
    chosen = range(len(lengths)) if indices is None else indices
    batches: list[list[int]] = []
    longest = rows = 0
    for i in sorted(chosen, key=lambda i: (-lengths[i], i)):
        more = 1 if counts is None else counts[i]
        fits = (rows + more) * longest <= max_tokens and lengths[i] >= alike * longest
        if batches and fits and (max_rows is None or rows + more <= max_rows):
            batches[-1].append(i)
            rows += more
        else:
            batches.append([i])
            longest, rows = lengths[i], more
    return batches
