"""The plan of who computes what: whole, equal in number, balanced, with the plain gradients."""

from __future__ import annotations

import random

import pytest
from support.tiny_models import gradients, labelled, reply_scorer, token_scorer, token_sequences
from support.tiny_settings import reward_config
from support.tolerances import assert_gradients_near

from rlhf.algorithms.reward import RewardObjective
from rlhf.algorithms.sft import SftObjective
from rlhf.training.rounds import Round, equal_rounds, plan_rounds


def drawn(seed: int, rows: int) -> list[tuple[int, int]]:
    draw = random.Random(seed)
    return [(draw.choice([1, 1, 3]), round(draw.lognormvariate(4, 0.8)) + 1) for _ in range(rows)]


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [0, 1, 2, 7, 40])
def test_every_row_counts_once_and_all_ranks_run_as_many_rounds(ranks, rows):
    for seed in range(10):
        shapes = drawn(seed, rows)
        plan = plan_rounds(shapes, 300, ranks)
        assert len({len(rounds) for rounds in plan}) == 1
        counted = [i for rounds in plan for each in rounds if each.counts for i in each.rows]
        assert sorted(counted) == list(range(rows))
        assert all(each.rows for rounds in plan for each in rounds)
        fillers = [each for rounds in plan for each in rounds if not each.counts]
        assert bool(fillers) == (0 < rows < ranks)
        for rounds in plan:
            for each in rounds:
                size = sum(shapes[i][0] for i in each.rows)
                longest = max(shapes[i][1] for i in each.rows)
                assert len(each.rows) == 1 or size * longest <= 300
        assert plan == plan_rounds(shapes, 300, ranks)


def test_rounds_side_by_side_cost_alike():
    """In lockstep a round takes as long as its costliest batch; dealt out in turn it is worse."""

    def slowest(batches: list[list[int]], lengths: list[int], ranks: int) -> float:
        costs = [len(b) * max(lengths[i] for i in b) for b in batches]
        rounds = [costs[i : i + ranks] for i in range(0, len(costs), ranks)]
        return sum(map(max, rounds)) / (sum(costs) / ranks)

    planned, shuffled = 0.0, 0.0
    for seed in range(20):
        lengths = [tokens for _, tokens in drawn(seed, 64)]
        plan = plan_rounds([(1, tokens) for tokens in lengths], 400, 4)
        batches = [rounds[n].rows for n in range(len(plan[0])) for rounds in plan]
        planned += slowest(batches, lengths, 4) / 20
        random.Random(seed).shuffle(batches)
        shuffled += slowest(batches, lengths, 4) / 20
    assert planned < 1.1 < shuffled


def test_plans_by_hand():
    assert plan_rounds([(1, 5)], 100, 2) == [[Round([0])], [Round([0], counts=False)]]
    # one batch for all would leave a rank idle: it is halved
    assert plan_rounds([(1, 5), (1, 4)], 100, 2) == [[Round([0])], [Round([1])]]
    assert plan_rounds([(1, 5), (1, 4), (1, 9)], 9, 1) == [[Round([2]), Round([0]), Round([1])]]


def test_ranks_with_rows_of_their_own_run_as_many_rounds():
    shapes = [[(1, 9), (1, 3), (1, 4)], [(1, 5), (1, 6)], [(1, 7), (1, 2)]]
    batches = [[[1], [2], [0]], [[1, 0]], []]
    assert equal_rounds(batches, shapes) == [
        [Round([0]), Round([2]), Round([1])],  # the costliest first
        [Round([1]), Round([0]), Round([0], counts=False)],  # halved, then its shortest row
        [Round([1], counts=False)] * 3,
    ]
    assert equal_rounds(batches[:1], shapes[:1]) == [[Round([1]), Round([2]), Round([0])]]
    assert equal_rounds([[], []], [[(1, 4)], []]) == [[], []]


def test_each_round_is_an_object_of_its_own():
    """So that `each is rounds[-1]` tells the last one."""
    for rounds in equal_rounds([[[0], [1], [2]], []], [[(1, 1)] * 3, [(1, 1)]]):
        assert [each is rounds[-1] for each in rounds] == [False, False, True]


def sft_rows():
    return labelled([9, 21, 2, 14, 6], seed=3)


def preference_rows():
    found = []
    for seed, sizes in enumerate([[9, 5, 1, 12], [4, 6, 6], [3, 8, 2], [7, 1, 1], [5, 30, 2]]):
        history, *replies = (ids.tolist() for ids in token_sequences(sizes, seed=seed))
        found.append({"history_ids": history, "reply_ids": replies})
    return found


@pytest.mark.parametrize("frozen", [0, 1])
@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
@pytest.mark.parametrize("kind", ["sft", "branching", "separate"])
def test_the_rounds_of_all_ranks_have_the_gradients_of_row_by_row(kind, ranks, frozen):
    root = token_scorer(0) if kind == "sft" else reply_scorer(0)
    if kind == "separate":
        root.model.config._attn_implementation = "eager"
    root.freeze(frozen)
    objective = (
        SftObjective() if kind == "sft" else RewardObjective(reward_config(0.01), root.branches)
    )
    rows = sft_rows() if kind == "sft" else preference_rows()
    expected_loss = 0.0
    for row in rows:
        loss, _ = objective(root, [row])
        loss.backward()
        expected_loss += float(loss.detach())
    expected = gradients(root)
    root.zero_grad()
    found, total = {}, 0.0
    for rounds in plan_rounds([objective.shape(row) for row in rows], 60, ranks):
        for each in rounds:
            loss, _ = objective(root, [rows[i] for i in each.rows])
            (each.weight * loss).backward()
            total += each.weight * float(loss.detach())
            own = gradients(root)
            assert own.keys() == expected.keys(), "every trained parameter is touched"
            if not each.counts:
                assert all(not gradient.any() for gradient in own.values())
            for name, gradient in own.items():
                found[name] = found.get(name, 0) + gradient
            root.zero_grad()
    assert total == pytest.approx(expected_loss, rel=1e-5)
    assert_gradients_near(found, expected)
