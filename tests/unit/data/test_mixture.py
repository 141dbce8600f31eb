from __future__ import annotations

import random
from collections import Counter

import pytest
from support.tiny_models import save_rows

from rlhf.data.mixture import Mixture, Share, rows_per_epoch
from rlhf.errors import ConfigError


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


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_ranks_share_an_epoch_without_overlap_or_loss(folders, world):
    shares = {"a": Share(size=17), "b": Share(0.5), "c": Share()}
    mixture = Mixture(folders, shares, "train")
    batch, rows = 8, mixture.rows_per_epoch
    assert mixture.epoch_rows == {"a": 17, "b": 15, "c": 3}
    for epoch in range(3):
        order = mixture.order(0, epoch, batch, grouping=2).tolist()
        batches = [order[i : i + batch] for i in range(0, rows, batch)]
        parts = [[one for rows in batches for one in rows[rank::world]] for rank in range(world)]
        taken = [row for part in parts for row in part]
        assert len(taken) == len(set(taken)) == rows
        assert max(map(len, parts)) - min(map(len, parts)) <= len(batches)


def test_weights_share_the_rows_of_the_epoch_out():
    draw = random.Random(0)
    for _ in range(200):
        names = "abcdef"[: draw.randint(1, 6)]
        sizes = {name: draw.randint(0, 500) for name in names}
        weights = {name: draw.choice([0.1, 1, 2.5, 7]) for name in names}
        shares = {name: Share(draw.choice([0.3, 1.0]), weight=weights[name]) for name in names}
        rows = rows_per_epoch(sizes, shares)
        without = rows_per_epoch(sizes, {name: Share(shares[name].fraction) for name in names})
        assert sum(rows.values()) == sum(without.values())
        weighed = sum(weights[name] for name in names if sizes[name])
        for name in names:
            part = sum(rows.values()) * weights[name] / weighed if sizes[name] else 0
            assert abs(rows[name] - part) < 1


def test_a_set_too_small_for_its_weight_is_repeated_whole_first(folders):
    mixture = Mixture(
        folders, {"a": Share(weight=1), "b": Share(weight=1), "c": Share(weight=2)}, "train"
    )
    assert mixture.epoch_rows == {"a": 18, "b": 18, "c": 37}
    drawn = Counter(rows_of(mixture, 0, 0))
    assert {count for (origin, _), count in drawn.items() if origin != "c"} == {1}
    assert sorted(drawn["c", i] for i in range(3)) == [12, 12, 13]
    most = [max(range(3), key=lambda i: Counter(rows_of(mixture, 0, e))["c", i]) for e in range(9)]
    assert len(set(most)) > 1, "who is drawn once more is drawn anew"


def test_a_size_beyond_the_set_is_refused(folders):
    with pytest.raises(ConfigError, match=r"(?s)'c' has 3 rows for training, not 4.*data\.c\.size"):
        Mixture(folders, {"c": Share(size=4)}, "train")


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    root = tmp_path_factory.mktemp("held")
    rows = {n: [{"id": f"{n}{i}", "number": i} for i in range(50)] for n in "ab"}
    return {n: save_rows(root / n, validation=rows[n], train=rows[n]) for n in "ab"}


class TestHeldOut:
    def ids(self, mixture):
        return [row["id"] for row in mixture]

    def test_a_limit_keeps_some_by_hash_in_their_order(self, held):
        few = self.ids(Mixture(held, {"a": Share(max_validation=7)}, "validation"))
        more = self.ids(Mixture(held, {"a": Share(max_validation=20)}, "validation"))
        assert [one[0] for one in few].count("a") == 7
        assert [one[0] for one in few].count("b") == 50
        assert set(few) < set(more)
        assert few == [one for one in more if one in few]
        assert few[:7] != [f"a{i}" for i in range(7)]
        assert self.ids(Mixture(held, {"a": Share(max_validation=99)}, "validation")) == self.ids(
            Mixture(held, {}, "validation")
        )

    def test_it_does_not_limit_training(self, held):
        assert len(Mixture(held, {"a": Share(max_validation=7)}, "train")) == 100

    def test_rows_that_are_left_out_are_as_if_not_there(self, held):
        left_out = {"a": {"a3", "a40"}, "b": set()}
        mixture = Mixture(held, {"a": Share(0.5)}, "train", left_out)
        assert mixture.sizes == {"a": 48, "b": 50}
        assert mixture.epoch_rows == {"a": 24, "b": 50}
        seen = {mixture[int(i)]["id"] for epoch in range(30) for i in mixture.order(0, epoch)}
        assert seen == set(self.ids(mixture)) == {f"{n}{i}" for n in "ab" for i in range(50)} - {
            "a3", "a40"
        }  # fmt: skip


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    draw = random.Random(0)
    rows = [{"id": str(i), "input_ids": [1] * draw.randint(1, 90)} for i in range(103)]
    folder = save_rows(tmp_path_factory.mktemp("long") / "d", train=rows)
    return Mixture({"d": folder}, {}, "train", {"d": {"5", "77"}})


class TestLengths:
    def test_lengths_are_those_of_the_rows(self, mixture, tmp_path):
        assert mixture.lengths().tolist() == [len(row["input_ids"]) for row in mixture]
        ranked = [
            {"history_ids": [1] * i, "reply_ids": [[2] * j for j in range(1, 2 + i % 4)]}
            for i in range(30)
        ]
        ranked[7]["reply_ids"] = [[], [2]]
        preferences = Mixture({"d": save_rows(tmp_path / "d", train=ranked)}, {}, "train")
        assert preferences.lengths().tolist() == [
            len(row["history_ids"]) + sum(map(len, row["reply_ids"])) for row in ranked
        ]

    @pytest.mark.parametrize("span", [1, 3, 100])
    def test_grouped_batches_are_of_like_lengths_in_random_order(self, mixture, span):
        lengths = mixture.lengths()
        plain, grouped = mixture.order(1, 0), mixture.order(1, 0, 8, span)
        assert sorted(plain) == sorted(grouped)
        assert grouped.tolist() == mixture.order(1, 0, 8, span).tolist()
        assert grouped.tolist() != mixture.order(1, 1, 8, span).tolist()
        assert grouped[96:].tolist() == plain[96:].tolist(), "what fills no batch is any rows"
        batches = [lengths[grouped[i : i + 8]] for i in range(0, 96, 8)]
        means = [batch.mean() for batch in batches]
        assert all(list(batch) == sorted(batch) for batch in batches)
        assert means != sorted(means)

    def test_grouping_saves_padding(self, mixture):
        def padded(order):
            lengths = mixture.lengths()[order]
            return sum(8 * max(lengths[i : i + 8]) for i in range(0, 96, 8))

        plain, few, all_ = (padded(mixture.order(0, 0, 8, span)) for span in (0, 3, 100))
        assert all_ < few < plain
        assert all_ < 0.7 * plain
