from __future__ import annotations

import random

import pytest
from tiny_models import save_rows

from rlhf.training.data import Mixture, Share, micro_batches


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    sizes = {"a": 40, "b": 30, "c": 3}
    return {
        name: save_rows(root / name, train=[{"origin": name, "number": i} for i in range(size)])
        for name, size in sizes.items()
    }


def rows_of(mixture, seed, epoch):
    rows = [mixture[int(i)] for i in mixture.order(seed, epoch)]
    assert all(row["dataset"] == row["origin"] for row in rows)
    return [(row["origin"], row["number"]) for row in rows]


def test_fractions_are_drawn_anew_in_every_epoch_without_repeats(folders):
    mixture = Mixture(folders, {"a": Share(0.5), "c": Share(0.01)}, "train")
    assert len(mixture) == 73
    assert mixture.rows_per_epoch == 20 + 30 + 1
    drawn = [rows_of(mixture, 0, epoch) for epoch in range(12)]
    for rows in drawn:
        assert len(set(rows)) == len(rows) == 51
        assert [sum(row[0] == name for row in rows) for name in "abc"] == [20, 30, 1]
    shares = [{row for row in rows if row[0] == "a"} for rows in drawn]
    assert len({frozenset(share) for share in shares}) == 12
    assert set().union(*shares) == {("a", i) for i in range(40)}


def test_the_order_follows_from_seed_and_epoch_alone(folders):
    """Checklist 36"""
    mixture = Mixture(folders, {}, "train")
    backwards = Mixture(dict(reversed(folders.items())), {}, "train")
    assert rows_of(mixture, 3, 1) == rows_of(backwards, 3, 1)
    assert rows_of(mixture, 3, 1) != rows_of(mixture, 3, 2)
    assert rows_of(mixture, 3, 1) != rows_of(mixture, 4, 1)
    assert sorted(rows_of(mixture, 3, 1)) == sorted(rows_of(mixture, 4, 7))
    origins = "".join(origin for origin, _ in rows_of(mixture, 3, 1))
    assert origins != "".join(sorted(origins)), "the sets are not shuffled together"


def test_micro_batches_partition_the_rows_within_the_limit():
    for seed in range(40):
        draw = random.Random(seed)
        costs = {row: draw.randint(1, 60) for row in draw.sample(range(100), draw.randint(1, 40))}
        limit = draw.randint(1, 300)
        groups = list(micro_batches(list(costs), costs, limit))
        assert sorted(row for group in groups for row in group) == sorted(costs)
        flat = [costs[row] for group in groups for row in group]
        assert flat == sorted(flat, reverse=True)
        for group, following in zip(groups, [*groups[1:], None], strict=True):
            widest = max(costs[row] for row in group)
            assert len(group) == 1 or widest * len(group) <= limit
            if following is not None:
                assert widest * (len(group) + 1) > limit
        shuffled = draw.sample(list(costs), len(costs))
        assert list(micro_batches(shuffled, costs, limit)) == groups
    assert list(micro_batches([], {}, 10)) == []
