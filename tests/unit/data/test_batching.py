"""Batches of like lengths: nothing lost, within the limits, none ends early."""

from __future__ import annotations

import random

import pytest

from rlhf.data.batching import batches_by_length


@pytest.mark.parametrize("alike", [0.0, 0.75])
@pytest.mark.parametrize("max_rows", [None, 3])
def test_batches_partition_the_rows_within_the_limits(alike, max_rows):
    for seed in range(40):
        draw = random.Random(seed)
        rows = draw.sample(range(100), draw.randint(1, 40))
        lengths = {row: draw.randint(1, 60) for row in rows}
        counts = {row: draw.choice([1, 1, 2, 5]) for row in rows}
        limit = draw.randint(1, 300)
        options = {"counts": counts, "max_rows": max_rows, "alike": alike}
        batches = batches_by_length(lengths, limit, indices=rows, **options)
        flat = [row for batch in batches for row in batch]
        assert sorted(flat) == sorted(rows)
        assert flat == sorted(rows, key=lambda row: (-lengths[row], row))
        for batch, following in zip(batches, [*batches[1:], [None]], strict=True):
            longest, size = lengths[batch[0]], sum(counts[row] for row in batch)
            assert min(lengths[row] for row in batch) >= alike * longest
            if len(batch) > 1:
                assert longest * size <= limit
                assert max_rows is None or size <= max_rows
            if following[0] is not None:  # no batch ends early
                size += counts[following[0]]
                too_long = longest * size > limit
                too_many = max_rows is not None and size > max_rows
                assert too_long or too_many or lengths[following[0]] < alike * longest
        shuffled = draw.sample(rows, len(rows))
        assert batches_by_length(lengths, limit, indices=shuffled, **options) == batches


def test_batches_by_hand():
    assert batches_by_length([], 10) == []
    lengths = [5, 90, 30, 90, 1, 30]
    assert batches_by_length(lengths, 180, max_rows=3) == [[1, 3], [2, 5, 0], [4]]
    assert batches_by_length([500], 180) == [[0]]  # too long for a batch, not for one
    assert batches_by_length([4, 4, 4], 16, counts=[3, 1, 1]) == [[0, 1], [2]]
