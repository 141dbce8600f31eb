from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
from support.tiny_models import gradients, reply_scorer, token_sequences
from support.tiny_settings import reward_config

from rlhf.algorithms.pairs import accuracy
from rlhf.algorithms.reward import RewardObjective, ranking_loss, score_rows
from rlhf.evaluation.held_out import HeldOut, score_differences, score_held_out


def loss_of(better: float, worse: float) -> float:
    return math.log1p(math.exp(worse - better))  # −log σ(better − worse)


CASES = {
    2: ([1.0, -0.5], [(1.0, -0.5)]),
    3: ([0.2, 1.0, -2.0], [(0.2, 1.0), (0.2, -2.0), (1.0, -2.0)]),
    4: (
        [2.0, 0.0, 0.5, -1.0],
        [(2.0, 0.0), (2.0, 0.5), (2.0, -1.0), (0.0, 0.5), (0.0, -1.0), (0.5, -1.0)],
    ),
}


@pytest.mark.parametrize("k", [2, 3, 4])
def test_ranking_loss_by_hand(k):
    """Checklist 14"""
    scores, pairs = CASES[k]
    assert len(pairs) == math.comb(k, 2)
    expected = sum(loss_of(*pair) for pair in pairs) / len(pairs)
    assert float(ranking_loss([torch.tensor(scores)], 0.0)) == pytest.approx(expected, rel=1e-6)
    squares = sum(b**2 + w**2 for b, w in pairs) / len(pairs) / 2
    found = float(ranking_loss([torch.tensor(scores)], 0.1))
    assert found == pytest.approx(expected + 0.1 * squares, rel=1e-6)


def test_two_replies_cost_minus_log_sigmoid():
    """Checklist 14"""
    scores = torch.tensor([0.3, 1.7], requires_grad=True)
    loss = ranking_loss([scores], 0.0)
    assert float(loss.detach()) == pytest.approx(-math.log(1 / (1 + math.exp(1.4))), rel=1e-6)
    loss.backward()
    wrong = 1 / (1 + math.exp(-1.4))
    torch.testing.assert_close(scores.grad, torch.tensor([-wrong, wrong]))


def test_every_prompt_counts_once_however_many_replies():
    """Checklist 14"""
    rows = [torch.tensor(CASES[k][0]) for k in (2, 3, 4)]
    parts = [float(ranking_loss([row], 0.01)) for row in rows]
    assert float(ranking_loss(rows, 0.01)) == pytest.approx(sum(parts), rel=1e-6)


def test_equal_scores_cost_log_2_and_are_pushed_apart():
    scores = torch.zeros(3, requires_grad=True)
    loss = ranking_loss([scores], 0.0)
    assert float(loss.detach()) == pytest.approx(math.log(2))
    loss.backward()
    torch.testing.assert_close(scores.grad, torch.tensor([-1 / 3, 0.0, 1 / 3]))


def testaccuracy():
    assert accuracy(torch.tensor([3.0, 2.0, 1.0])) == 1
    assert accuracy(torch.tensor([1.0, 2.0])) == 0
    assert accuracy(torch.tensor([1.0, 1.0])) == 0
    assert accuracy(torch.tensor([2.0, 3.0, 1.0])) == pytest.approx(2 / 3)


def tau_b(order: list[float], scores: list[float]) -> float:
    """Kendall's τ-b of two rankings, by its definition: all pairs counted one by one."""
    pairs = list(itertools.combinations(range(len(order)), 2))
    agree = sum((order[i] - order[j]) * (scores[i] - scores[j]) > 0 for i, j in pairs)
    differ = sum((order[i] - order[j]) * (scores[i] - scores[j]) < 0 for i, j in pairs)
    untied = [sum(one[i] != one[j] for i, j in pairs) for one in (order, scores)]
    return (agree - differ) / math.sqrt(math.prod(untied)) if all(untied) else 0.0


def measured(objective: RewardObjective, scores: list[float]) -> dict[str, float]:
    row = {"history_ids": [1], "reply_ids": [[5, i] for i in range(len(scores))]}
    return {
        name.removeprefix("validation_"): value
        for name, value in objective.validate([row], [torch.tensor(scores)]).items()
        if name != "validation_loss"
    }


def test_measures_where_scores_tie():
    """Scores are narrow numbers, and tie: a tie is no success, and τ is corrected for it."""
    generator = random.Random(4)
    objective = RewardObjective(reward_config(0.0), True)
    for _ in range(200):
        scores = [float(generator.randint(0, 3)) for _ in range(generator.randint(2, 6))]
        measures = measured(objective, scores)
        pairs = list(itertools.combinations(scores, 2))
        right = sum(better > worse for better, worse in pairs)
        assert measures["accuracy"] == pytest.approx(right / len(pairs))
        order = [float(len(scores) - i) for i in range(len(scores))]
        assert measures["kendall_tau"] == pytest.approx(tau_b(order, scores))
    assert measured(objective, [0.5] * 4) == {"accuracy": 0.0, "kendall_tau": 0.0}
    assert tau_b([3, 2, 1], [2, 2, 1]) == pytest.approx(2 / math.sqrt(6))


def test_tied_and_repeated_replies_give_no_pair(tmp_path):
    """Checklist 18"""
    import json

    from rlhf.data.formats.source import load

    def reply(text, rank):
        return {"message_id": text, "role": "assistant", "text": text.strip("1"), "rank": rank,
                "replies": []}  # fmt: skip

    def tree(name, *replies):
        prompt = {"message_id": name, "role": "prompter", "text": name, "replies": list(replies)}
        return json.dumps({"message_tree_id": name, "prompt": prompt})

    path = tmp_path / "trees.jsonl"
    lines = [
        tree("tied", reply("a", 0), reply("b", 0)),
        tree("same", reply("c", 0), reply("c1", 1)),
        tree("good", reply("d", 1), reply("e", 0)),
    ]
    path.write_text("\n".join(lines) + "\n")
    rows = load("oasst", path, {"invalid": "drop"})
    assert [row.replies for row in rows.preferences] == [("e", "d")]


def test_differences_are_of_all_pairs_better_first():
    model, objective = reply_scorer(3), RewardObjective(reward_config(0.01), branches=True)
    history, *replies = (ids.tolist() for ids in token_sequences([5, 4, 2, 6, 3], seed=8))
    rows = [
        {"history_ids": history, "reply_ids": replies[:3]},
        {"history_ids": history[1:], "reply_ids": replies[2:]},
    ]
    by_row = score_held_out(model, objective, rows, max_tokens=32)
    found = score_differences(by_row)
    with torch.no_grad():
        (a, b, c), (d, e) = score_rows(model, rows)
    assert found == pytest.approx([float(one) for one in (a - b, a - c, b - c, d - e)], abs=1e-5)
    assert any(one > 0 for one in found)
    assert any(one < 0 for one in found)
    assert score_held_out(model, objective, [], max_tokens=32) == []


def test_held_out_measures_are_means_over_rows():
    model, objective = reply_scorer(3), RewardObjective(reward_config(0.01), branches=True)
    history, *replies = (ids.tolist() for ids in token_sequences([5, 4, 2, 6, 3], seed=8))
    rows = [
        {"history_ids": history, "reply_ids": replies[:3]},
        {"history_ids": history[1:], "reply_ids": replies[2:]},
    ]
    with torch.no_grad():
        parts = [objective(model, [row]) for row in rows]
    found = HeldOut(objective, rows, max_tokens=32).validate(model)
    assert found["validation_loss"] == pytest.approx(sum(float(loss) for loss, _ in parts) / 2)
    for name in ("accuracy", "kendall_tau"):
        mean = sum(measures[name] for _, measures in parts) / 2
        assert found[f"validation_{name}"] == pytest.approx(mean)
    assert HeldOut(objective, [], max_tokens=32).validate(model) == {}


def test_reward_objective_is_the_sum_over_rows_and_measures_accuracy():
    """Checklist 14"""
    model = reply_scorer(2)
    history = [s.tolist() for s in token_sequences([4, 6, 3], seed=1)]
    replies = [
        [s.tolist() for s in token_sequences([2 + k, 5, 1], seed=9 + k)][: k + 2] for k in range(2)
    ]
    replies.append([s.tolist() for s in token_sequences([3, 3, 2, 7], seed=20)])
    rows = [{"history_ids": h, "reply_ids": r} for h, r in zip(history, replies, strict=True)]
    objective = RewardObjective(reward_config(0.01), branches=True)
    loss, measures = objective(model, rows)
    loss.backward()
    together = gradients(model)
    model.zero_grad()
    single, accuracy = 0.0, 0.0
    for row in rows:
        one, measured = objective(model, [row])
        one.backward()
        single, accuracy = single + float(one.detach()), accuracy + measured["accuracy"]
        assert measured["kendall_tau"] == pytest.approx(2 * measured["accuracy"] - 1)
    assert float(loss.detach()) == pytest.approx(single, rel=1e-5)
    assert measures["accuracy"] == pytest.approx(accuracy)
    assert measures["kendall_tau"] == pytest.approx(2 * accuracy - 3)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, together[name], atol=1e-5, rtol=1e-4)
    assert objective.shape(rows[0]) == (1, 4 + sum(len(r) for r in replies[0]))
    apart = RewardObjective(reward_config(0.01), branches=False)
    assert apart.shape(rows[0]) == (len(replies[0]), 4 + max(len(r) for r in replies[0]))
    assert objective.weight(rows[0]) == objective.weight(rows[2]) == 1
