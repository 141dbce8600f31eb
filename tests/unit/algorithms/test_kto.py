"""Kahneman-Tversky optimization, against the paper in float64, by hand, and as a run.

On two ranks: see ``test_dpo.py``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support.interruptions import interrupt
from support.plain_losses import token_logprobs
from support.programs.kto_ranks import config, make_rows, run_kto, save_set
from support.tiny_models import (
    assert_close,
    causal_lm,
    gradients,
    save_rows,
    token_scorer,
)

from rlhf.algorithms.kto import KlEstimate, KtoObjective, Mismatches, balance, mismatched
from rlhf.algorithms.replies import ReferenceLogprobs, reply_logprobs
from rlhf.data.mixture import Mixture
from rlhf.models.roots import TokenScorer
from rlhf.runtime.deadline import Saved

LONGEST = 64


def plain_ratio(model: Any, reference: Any, history: list[int], reply: list[int]) -> torch.Tensor:
    with torch.no_grad():
        fixed = token_logprobs(reference, history, reply).sum()
    return token_logprobs(model, history, reply).sum() - fixed


def plain_kl(model: Any, reference: Any, rows: list[dict]) -> float:
    """Section 4.1: max(0, 1/m Σ log π(y_j|x_i)/π_ref(y_j|x_i)), j = i + 1 modulo m."""
    with torch.no_grad():
        pairs = zip(rows, rows[1:] + rows[:1], strict=True)
        ratios = [
            plain_ratio(model, reference, one["history_ids"], other["reply_ids"][0])
            for one, other in pairs
        ]
    return max(0.0, float(torch.stack(ratios).mean()))


def plain_loss(model: Any, reference: Any, rows: list[dict], settings: Any) -> torch.Tensor:
    """Equation 8: λ_y − v(x, y)."""
    z, total = plain_kl(model, reference, rows), torch.tensor(0.0, dtype=torch.float64)
    for row in rows:
        r = plain_ratio(model, reference, row["history_ids"], row["reply_ids"][0])
        weight = settings.desirable_weight if row["desirable"] else settings.undesirable_weight
        sign = 1 if row["desirable"] else -1
        total = total + weight - weight / (1 + torch.exp(-settings.beta * sign * (r - z)))
    return total


def reference_of(model: Any) -> Callable[[dict], torch.Tensor]:
    """log π_ref of a row's reply, computed anew."""
    scorer = TokenScorer(model)

    def known(row: dict) -> torch.Tensor:
        with torch.no_grad():
            return reply_logprobs(scorer, [row])[0]

    return known


@pytest.mark.parametrize("swapped", [False, True], ids=["one way", "the other way"])
@pytest.mark.parametrize(
    ("changes", "tokens"),
    [({}, 1000), ({"beta": 0.5, "desirable_weight": 0.5, "undesirable_weight": 2.0}, 10)],
    ids=["defaults", "weights, small passes"],
)
def test_equals_the_paper(changes, tokens, swapped):
    """In value, gradients and measures; of the two ways one has a z_0 that is clamped at 0."""
    settings, rows = config(**changes), make_rows(6)
    scorer, other = token_scorer(int(swapped)), causal_lm(int(not swapped))
    known = reference_of(other)
    enriched = KlEstimate(scorer, known, LONGEST, True, tokens)(rows)
    loss, measures = KtoObjective(settings, known, True)(scorer, enriched)
    loss.backward()
    found = gradients(scorer)
    model, reference = (causal_lm(seed).double() for seed in (int(swapped), int(not swapped)))
    expected = plain_loss(model, reference, rows, settings)
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    wanted = {f"model.{name}": value.float() for name, value in gradients(model).items()}
    assert_close(found, wanted, atol=2e-4)
    z = plain_kl(model, reference, rows)
    assert measures["kl"] == pytest.approx(len(rows) * z, rel=1e-3)
    with torch.no_grad():
        ratios = [
            float(plain_ratio(model, reference, row["history_ids"], row["reply_ids"][0]))
            for row in rows
        ]
    for label, name in ((True, "desirable_logratio"), (False, "undesirable_logratio")):
        own = [r for r, row in zip(ratios, rows, strict=True) if row["desirable"] == label]
        mean = sum(own) / len(own)
        assert measures[name] / len(rows) == pytest.approx(mean, rel=1e-3), name
    right = sum((r > z) == row["desirable"] for r, row in zip(ratios, rows, strict=True))
    assert measures["accuracy"] == right


def test_both_sides_of_the_clamp_are_met():
    """Of the two ways of ``test_equals_the_paper``."""
    rows, models = make_rows(6), [causal_lm(seed).double() for seed in (0, 1)]
    found = sorted(plain_kl(*pair, rows) for pair in (models, models[::-1]))
    assert found[0] == 0 < found[1]


def test_a_policy_that_is_its_reference_has_half_the_weights():
    scorer, rows = token_scorer(0), make_rows(6)
    known = reference_of(scorer.model)
    enriched = KlEstimate(scorer, known, LONGEST, True, 1000)(rows)
    settings = config(desirable_weight=0.7, undesirable_weight=1.3)
    loss, measures = KtoObjective(settings, known, True)(scorer, enriched)
    assert float(loss.detach()) == pytest.approx(0.5 * (4 * 0.7 + 2 * 1.3), abs=1e-5)
    assert measures["kl"] == pytest.approx(0, abs=1e-5)


def test_histories_get_replies_to_others():
    rows = [
        {"dataset": name, "id": str(i), "history_ids": history, "reply_ids": [reply]}
        for name, i, history, reply in (
            ("a", 0, [1, 2], [10, 11, 12]), ("a", 1, [1, 2], [20]), ("b", 2, [3], [30, 31]),
        )
    ]  # fmt: skip
    found = [(one["id"], one["history_ids"], one["reply_ids"]) for one in mismatched(rows, 4)]
    assert found == [
        (("0", "b", "2"), [1, 2], [[30, 31]]),
        (("1", "b", "2"), [1, 2], [[30, 31]]),
        (("2", "a", "0"), [3], [[10, 11, 12]]),
    ]
    assert mismatched(rows, 3)[2]["reply_ids"] == [[10, 11]]
    assert mismatched(rows[:2], 4) == []
    assert mismatched(rows[:1], 4) == []


def test_a_batch_of_one_label_has_the_log_ratio_of_that_alone():
    scorer, rows = token_scorer(0), [row for row in make_rows(6) if row["desirable"]]
    known = reference_of(causal_lm(1))
    enriched = KlEstimate(scorer, known, LONGEST, True, 1000)(rows)
    _, measures = KtoObjective(config(), known, True)(scorer, enriched)
    assert set(measures) == {"accuracy", "kl", "desirable_logratio"}
    single = KlEstimate(scorer, known, LONGEST, True, 1000)(rows[:1])
    assert single[0]["kl"] == 0
    assert KlEstimate(scorer, known, LONGEST, True, 1000)([]) == []


def test_no_mismatched_row_is_longer_than_the_longest(tmp_path):
    save_set(tmp_path)
    data, held_out = (Mixture({"d": tmp_path / "set"}, {}, one) for one in ("train", "validation"))
    pairs = Mismatches(data, held_out, config())
    lengths = [len(row["history_ids"]) + len(row["reply_ids"][0]) for row in pairs]
    own = [len(row["history_ids"]) + len(row["reply_ids"][0]) for row in make_rows(8)]
    assert max(lengths) <= pairs.longest == max(own)
    assert min(len(row["reply_ids"][0]) for row in pairs) > 0
    # Two epochs of a batch of four, and one row that has no other; and what is held out.
    assert len(lengths) == 2 * 4 + 3


def test_a_run_in_two_parts_is_the_same_run(tmp_path, monkeypatch):
    """The reference of the mismatched rows is that of the start, though the weights have moved."""
    save_set(tmp_path)
    computed = []
    original = ReferenceLogprobs.compute

    def compute(reference):
        computed.append(1)
        original(reference)

    monkeypatch.setattr(ReferenceLogprobs, "compute", compute)

    def run(name: str) -> tuple[list[torch.Tensor], bytes]:
        root = token_scorer(0)
        run, _ = run_kto(root, tmp_path, tmp_path / name, config())
        run.publish(metrics=tmp_path / f"{name}.jsonl")
        return list(root.parameters()), (tmp_path / f"{name}.jsonl").read_bytes()

    straight, metrics = run("straight")
    interrupt(monkeypatch, after=2)
    with pytest.raises(Saved, match="after step 2 of 4"):
        run("parts")
    parts, again = run("parts")
    assert len(computed) == 2, "computed again by weights that are not the reference's"
    assert again == metrics
    assert all(map(torch.equal, straight, parts))


def toy_rows(shuffled: bool) -> list[dict[str, Any]]:
    """Replies with the token 7 are good, those with 9 bad; or which is good is chance."""
    generator, rows = random.Random(3), []
    for i in range(64):
        history = [generator.randrange(20, 300) for _ in range(4)]
        filler = [generator.randrange(20, 300) for _ in range(2)]
        good = bool(i % 2)
        reply = [*filler, 7 if good else 9, 2]
        label = generator.random() < 0.5 if shuffled else good
        row = {"id": str(i), "history_ids": history, "reply_ids": [reply], "desirable": label}
        rows.append(row)
    return rows


@pytest.mark.parametrize("shuffled", [False, True])
def test_labels_are_learned_and_noise_is_not(tmp_path, shuffled):
    rows = toy_rows(shuffled)
    save_rows(tmp_path / "set", train=rows[:32], validation=rows[32:])
    optimizer = {"learning_rate": 3e-3, "schedule": "constant", "warmup": 0.0}
    settings = config(epochs=3, global_batch_size=8, optimizer=optimizer)
    run, _ = run_kto(token_scorer(0), tmp_path, tmp_path / "state", settings, tokens=512)
    looks = [one for one in run.journals["metrics"].records() if "validation_loss" in one]
    first, last = looks[0], looks[-1]
    assert first["validation_loss"] == pytest.approx(0.5, abs=1e-4)
    margin = last["validation_desirable_logratio"] - last["validation_undesirable_logratio"]
    if shuffled:
        assert last["validation_accuracy"] < 0.8
        assert abs(margin) < 2
    else:
        assert last["validation_accuracy"] > 0.95
        assert margin > 4
        assert last["validation_loss"] < 0.45


@pytest.mark.parametrize(
    ("share", "weights", "expected"),
    [(0.5, (1, 1), 1.0), (0.6, (1, 1), 1.5), (0.25, (4, 1), 4 / 3), (0.8, (1, 2), 2.0)],
)
def test_balance(share, weights, expected):
    settings = config(desirable_weight=weights[0], undesirable_weight=weights[1])
    assert math.isclose(balance(share, settings), expected)


def test_a_batch_of_one_row_has_no_kl():
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        config(global_batch_size=1)
