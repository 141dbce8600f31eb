"""Each loss of a reward model, against its formula in float64, and the effect of each option."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support.tiny_models import gradients, reply_scorer, token_sequences
from support.tiny_settings import reward_config
from support.tolerances import assert_gradients_near, assert_near

from rlhf.algorithms.reward import RewardObjective, score_rows, tokenwise_loss
from rlhf.models.roots import ReplyScorer


def make_rows() -> list[dict[str, Any]]:
    """Replies of unlike lengths that begin alike: 3, 2 and 4 of them, with scores of their own."""
    rows = []
    for seed, lengths in enumerate(([5, 4, 2, 6], [7, 3, 5], [4, 1, 5, 2, 4])):
        history, *replies = (ids.tolist() for ids in token_sequences(lengths, seed=seed + 8))
        start = [40 + seed] * seed
        scores = [3.5 - 0.75 * i * (i + 1) for i in range(len(replies))]
        rows.append({
            "history_ids": history, "reply_ids": [start + ids for ids in replies], "scores": scores
        })  # fmt: skip
    return rows


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > -700 else x


def smoothed(difference: float, epsilon: float) -> float:
    return -(1 - epsilon) * log_sigmoid(difference) - epsilon * log_sigmoid(-difference)


Values = list[list[float]]  # of each reply, the scores of its tokens


def reference(row: dict[str, Any], values: Values, settings: dict[str, Any]) -> list[float]:
    """The loss of each pair of a row, or of each reply (regression); floats are float64."""
    loss = {"kind": "ranking", "margin": 0.0, "label_smoothing": 0.0, "centring": 0.0}
    loss |= settings.get("loss", {})
    l2, own = settings.get("score_l2", 0.001), row["scores"]
    if loss["kind"] == "regression":
        ends = [each[-1] for each in values]
        return [(s - t) ** 2 + l2 * s**2 / 2 for s, t in zip(ends, own, strict=True)]
    found = []
    for better, worse in combinations(range(len(values)), 2):
        margin = loss["margin"] * (own[better] - own[worse])
        tokens = [len(values[better]) - 1], [len(values[worse]) - 1]
        if loss["kind"] == "tokenwise":
            ids = row["reply_ids"][better], row["reply_ids"][worse]
            shared = 0
            while ids[0][shared] == ids[1][shared]:
                shared += 1
            end = max(map(len, ids))
            tokens = tuple([min(t, len(each) - 1) for t in range(shared, end)] for each in ids)
        costs = [
            smoothed(values[better][i] - values[worse][j] - margin, loss["label_smoothing"])
            for i, j in zip(*tokens, strict=True)
        ]
        s, t = values[better][-1], values[worse][-1]
        cost = sum(costs) / len(costs) + l2 * (s**2 + t**2) / 2 + loss["centring"] * (s + t) ** 2
        found.append(cost)
    return found


CASES: dict[str, tuple[dict[str, Any], Callable[[list[float]], float]]] = {
    "ranking": ({}, lambda pairs: 1.0),
    "smoothed": ({"loss": {"label_smoothing": 0.2}}, lambda pairs: 1.0),
    "margin": ({"loss": {"margin": 0.5}, "score_l2": 0.0}, lambda pairs: 1.0),
    "centred": ({"loss": {"centring": 0.01}}, lambda pairs: 1.0),
    "all of pairs": (
        {
            "loss": {
                "kind": "classification",
                "margin": 0.5,
                "label_smoothing": 0.1,
                "centring": 0.1,
            }
        },
        len,
    ),
    "classification": ({"loss": {"kind": "classification"}, "score_l2": 0.0}, len),
    "tokenwise": ({"loss": {"kind": "tokenwise"}, "score_l2": 0.0}, lambda pairs: 1.0),
    "tokenwise, all": (
        {"loss": {"kind": "tokenwise", "margin": 0.5, "label_smoothing": 0.1, "centring": 0.1}},
        lambda pairs: 1.0,
    ),
    "regression": ({"loss": {"kind": "regression"}, "score_l2": 0.1}, len),
}


@pytest.fixture(scope="module")
def values() -> list[Values]:
    """Scores of all tokens, each by a pass of its own through transformers' model."""
    scorer = reply_scorer(3)
    found = []
    with torch.no_grad():
        for row in make_rows():
            own = []
            for reply in row["reply_ids"]:
                ids = torch.tensor(row["history_ids"] + reply)
                states = scorer.model.model(input_ids=ids[None]).last_hidden_state[0]
                scores = scorer.model.score(states).squeeze(-1).double()
                own.append(scores[len(row["history_ids"]) :].tolist())
            found.append(own)
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_loss_is_its_formula(case: str, values: list[Values]) -> None:
    """Checklist 14"""
    settings, weigh = CASES[case]
    rows, model = make_rows(), reply_scorer(3)
    objective = RewardObjective(reward_config(**settings), model.branches)
    loss, measures = objective(model, rows)
    costs = [reference(row, own, settings) for row, own in zip(rows, values, strict=True)]
    weights = [float(weigh(each)) for each in costs]
    assert [objective.weight(row) for row in rows] == weights
    expected = [w * sum(each) / len(each) for w, each in zip(weights, costs, strict=True)]
    assert float(loss.detach()) == pytest.approx(sum(expected), rel=2e-5)
    right = [[a[-1] > b[-1] for a, b in combinations(own, 2)] for own in values]
    shares = [w * sum(each) / len(each) for w, each in zip(weights, right, strict=True)]
    assert float(measures["accuracy"]) == pytest.approx(sum(shares))
    with torch.no_grad():
        found = objective.validate(rows, objective.scores(model, rows))
    assert found["validation_loss"] == pytest.approx(sum(expected) / sum(weights), rel=2e-5)
    means = [sum(each) / len(each) for each in right]
    assert found["validation_accuracy"] == pytest.approx(sum(means) / 3)


def test_options_change_the_loss(values: list[Values]) -> None:
    """So that the references above are not of options that both sides leave out."""
    rows = make_rows()
    found = {
        case: round(sum(map(sum, (reference(*each, settings) for each in
                                  zip(rows, values, strict=True)))), 6)
        for case, (settings, _) in CASES.items()
    }  # fmt: skip
    assert len(set(found.values())) == len(CASES)


@pytest.mark.parametrize("kind", ["tokenwise", "regression", "classification"])
def test_branches_and_packing_change_no_loss(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for branches, packs in ((True, None), (False, None), (True, True), (False, True)):
        monkeypatch.undo()
        model = reply_scorer(3)
        if packs:
            model.attend("sdpa", packs=True)
        if not branches:
            monkeypatch.setattr(ReplyScorer, "branches", False)
        objective = RewardObjective(reward_config(loss={"kind": kind}), model.branches)
        loss, _ = objective(model, make_rows())
        loss.backward()
        results.append((loss.detach(), gradients(model)))
    for loss, found in results[1:]:
        assert_near(loss, results[0][0])
        assert_gradients_near(found, results[0][1])


def test_scores_of_tokens_end_with_those_of_replies() -> None:
    model, rows = reply_scorer(3), make_rows()
    objective = RewardObjective(reward_config(loss={"kind": "tokenwise"}), model.branches)
    with torch.no_grad():
        ends = [objective.last(row, own)
                for row, own in zip(rows, objective.scores(model, rows), strict=True)]  # fmt: skip
        for found, expected in zip(ends, score_rows(model, rows), strict=True):
            assert_near(found, expected)


def test_equal_beginnings_cost_nothing_in_tokenwise() -> None:
    """The loss begins where two replies part; a longer one is compared with the other's end."""
    values = torch.tensor([9.0, 1.0, 9.0, -1.0, -2.0], requires_grad=True)
    loss = tokenwise_loss(values, [[5, 6], [5, 7, 8]])
    assert float(loss.detach()) == pytest.approx(-(log_sigmoid(2.0) + log_sigmoid(3.0)) / 2)
    loss.sum().backward()
    assert values.grad is not None
    assert values.grad[0] == values.grad[2] == 0
    assert (values.grad[[1, 3, 4]] != 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": {"kind": "regression", "margin": 1.0}}, "margin is of pairs"),
        ({"loss": {"kind": "regression", "centring": 0.1}}, "centring is of pairs"),
        ({"loss": {"kind": "tokenwise"}, "pooling": "mean"}, "one score for a whole reply"),
        ({"train": "head", "freeze_layers": 1}, "freeze_layers says nothing"),
        ({"train": "head", "adapter": {}}, "adapter says nothing"),
    ],
)
def test_settings_that_contradict_each_other(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        reward_config(**changes)
