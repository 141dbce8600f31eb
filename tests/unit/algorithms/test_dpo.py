"""Direct preference optimization, against a plain loop, by hand, and as a run."""

from __future__ import annotations

import itertools
import math
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support.interruptions import interrupt
from support.programs import dpo_ranks, kto_ranks
from support.programs.dpo_ranks import config, make_rows, run_dpo, save_set
from support.tiny_models import (
    assert_close,
    causal_lm,
    gradients,
    run_ranks,
    save_rows,
    token_scorer,
)
from torch.nn import functional as F

from rlhf.algorithms.dpo import DpoLoss, ipo_loss, sigmoid_loss
from rlhf.algorithms.replies import RankedObjective, ReferenceLogprobs, reply_logprobs
from rlhf.models.roots import TokenScorer
from rlhf.runtime.deadline import Saved


def plain_logprob(model: Any, history: list[int], reply: list[int]) -> torch.Tensor:
    """Full logits, one sequence at a time."""
    logits = model(input_ids=torch.tensor([history + reply])).logits[0].float()
    known = F.log_softmax(logits, dim=-1)
    places = range(len(history), len(history) + len(reply))
    return torch.stack([known[i - 1, (history + reply)[i]] for i in places]).sum()


def plain_loss(model: Any, reference: Any, rows: list[dict], settings: Any) -> torch.Tensor:
    """The papers' losses, pair by pair."""
    total = torch.tensor(0.0)
    for row in rows:
        pairs = list(itertools.combinations(row["reply_ids"], 2))
        for better, worse in pairs:
            ratios = []
            for reply in (better, worse):
                with torch.no_grad():
                    fixed = plain_logprob(reference, row["history_ids"], reply)
                ratios.append(plain_logprob(model, row["history_ids"], reply) - fixed)
            h = ratios[0] - ratios[1]
            if settings.loss == "ipo":
                loss = (h - 0.5 / settings.beta) ** 2
            else:
                wrong = settings.label_smoothing
                right = torch.sigmoid(settings.beta * h)
                loss = -(1 - wrong) * torch.log(right) - wrong * torch.log(1 - right)
            total = total + loss / len(pairs)
    return total


def reference_of(model: Any) -> Any:
    """log π_ref of a row's replies, computed anew."""
    scorer = TokenScorer(model)

    def known(row: dict) -> torch.Tensor:
        with torch.no_grad():
            return reply_logprobs(scorer, [row])[0]

    return known


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    "changes",
    [{}, {"beta": 0.5, "label_smoothing": 0.2}, {"loss": "ipo", "beta": 0.2}],
    ids=["sigmoid", "conservative", "ipo"],
)
def test_equals_a_plain_loop(monkeypatch, changes, shared):
    """In value and gradients, with shared passes over histories and without."""
    monkeypatch.setattr(TokenScorer, "shares_prompts", shared)
    settings, rows = config(**changes), make_rows(3)
    scorer, reference = token_scorer(0), causal_lm(1)
    objective = RankedObjective(DpoLoss(settings, reference_of(reference)), shared)
    loss, measures = objective(scorer, rows)
    loss.backward()
    found = gradients(scorer)
    scorer.zero_grad()
    expected = plain_loss(scorer.model, reference, rows, settings)
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert_close(found, gradients(scorer), atol=2e-4)
    with torch.no_grad():
        ratios = [
            [
                float(plain_logprob(scorer.model, row["history_ids"], reply))
                - float(plain_logprob(reference, row["history_ids"], reply))
                for reply in row["reply_ids"]
            ]
            for row in rows
        ]
    pairs = [list(itertools.combinations(row, 2)) for row in ratios]
    means = {
        "accuracy": lambda better, worse: float(better > worse),
        "reward_margin": lambda better, worse: settings.beta * (better - worse),
        "chosen_logratio": lambda better, _worse: better,
        "rejected_logratio": lambda _better, worse: worse,
    }
    for name, of in means.items():
        by_row = [sum(of(*pair) for pair in own) / len(own) for own in pairs]
        assert measures[name] == pytest.approx(sum(by_row), rel=1e-3, abs=1e-3), name
    assert measures["kendall_tau"] == pytest.approx(2 * measures["accuracy"] - len(rows))


def test_a_frozen_trunk_changes_no_trained_gradient():
    rows, reference = make_rows(2), reference_of(causal_lm(1))
    whole, frozen = token_scorer(0), token_scorer(0)
    frozen.freeze(1)
    for scorer in (whole, frozen):
        RankedObjective(DpoLoss(config(), reference), True)(scorer, rows)[0].backward()
    expected = gradients(whole)
    found = gradients(frozen)
    assert 0 < len(found) < len(expected)
    assert_close(found, {name: expected[name] for name in found}, atol=1e-5)


def test_a_policy_that_is_its_reference_has_loss_log_2():
    scorer, rows = token_scorer(0), make_rows(4)
    objective = RankedObjective(DpoLoss(config(), reference_of(scorer.model)), True)
    loss, measures = objective(scorer, rows)
    assert float(loss.detach()) == pytest.approx(4 * math.log(2), abs=1e-5)
    assert measures["reward_margin"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("difference", "beta", "smoothing", "loss"),
    [
        (0.0, 0.1, 0.0, math.log(2)),
        (0.0, 0.1, 0.3, math.log(2)),
        (2.0, 0.5, 0.0, math.log(1 + math.exp(-1))),
        (-2.0, 0.5, 0.0, math.log(1 + math.exp(1))),
        # 0.9·log(1 + 1/e) + 0.1·log(1 + e): 0.281935… + 0.131326…
        (2.0, 0.5, 0.1, 0.4132617),
        (-2.0, 0.5, 0.1, 1.2132617),
    ],
)
def test_sigmoid_loss_by_hand(difference, beta, smoothing, loss):
    (found,) = sigmoid_loss(torch.tensor([difference]), beta, smoothing)
    assert float(found) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(
    ("difference", "beta", "loss"),
    [(0.0, 0.1, 25.0), (5.0, 0.1, 0.0), (6.0, 0.1, 1.0), (-1.0, 0.5, 4.0), (3.0, 0.5, 4.0)],
)
def test_ipo_loss_by_hand(difference, beta, loss):
    """The margin's target is 1/(2β)."""
    (found,) = ipo_loss(torch.tensor([difference]), beta)
    assert float(found) == pytest.approx(loss, abs=1e-6)


def test_smoothed_labels_have_a_best_margin():
    """σ(β·h) = 1 − ε: beyond it the loss rises again, without smoothing it never does."""
    best = math.log(0.8 / 0.2) / 0.5
    margins = torch.tensor([best - 0.5, best, best + 0.5])
    near, at, far = sigmoid_loss(margins, 0.5, 0.2)
    assert at < near
    assert at < far
    plain = sigmoid_loss(margins, 0.5, 0.0)
    assert plain[0] > plain[1] > plain[2]


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_a_row_of_k_replies_is_the_mean_of_its_pairs(loss):
    settings, reference = config(loss=loss), reference_of(causal_lm(1))
    objective, scorer = RankedObjective(DpoLoss(settings, reference), True), token_scorer(0)
    (row,) = [row for row in make_rows() if len(row["reply_ids"]) == 4][:1]
    together, _ = objective(scorer, [row])
    together.backward()
    found = gradients(scorer)
    scorer.zero_grad()
    pairs = [
        row | {"reply_ids": list(pair)} for pair in itertools.combinations(row["reply_ids"], 2)
    ]
    assert len(pairs) == 6
    apart, _ = objective(scorer, pairs)
    (apart / len(pairs)).backward()
    assert float(together.detach()) == pytest.approx(float(apart.detach()) / 6, rel=1e-5)
    assert_close(found, gradients(scorer), atol=1e-5)
    assert objective.weight(row) == objective.weight(pairs[0]) == 1


def test_the_eos_counts():
    """What comes last in a reply is its EOS; without it the log probability is another."""
    scorer, (row, *_) = token_scorer(0), make_rows(1)
    with torch.no_grad():
        before = reply_logprobs(scorer, [row])[0]
        shorter = row | {"reply_ids": [reply[:-1] for reply in row["reply_ids"]]}
        after = reply_logprobs(scorer, [shorter])[0]
        last = [plain_logprob(scorer.model, row["history_ids"] + reply[:-1], reply[-1:])
                for reply in row["reply_ids"]]  # fmt: skip
    torch.testing.assert_close(before - after, torch.stack(last), atol=1e-4, rtol=1e-4)


def test_replies_to_one_history_share_a_pass(monkeypatch):
    scorer, rows = token_scorer(0), make_rows(3)
    passes: list[int] = []
    original = TokenScorer.branched_hidden_states

    def counted(self, histories, branches):
        passes.extend(map(len, branches))
        return original(self, histories, branches)

    monkeypatch.setattr(TokenScorer, "branched_hidden_states", counted)
    reply_logprobs(scorer, rows)
    assert passes == [len(row["reply_ids"]) for row in rows]


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_run_in_two_parts_is_the_same_run(tmp_path, monkeypatch, frozen):
    """The reference is that of the start, though the weights have moved."""
    save_set(tmp_path)
    computed = []
    original = ReferenceLogprobs.compute

    def compute(reference):
        computed.append(1)
        original(reference)

    monkeypatch.setattr(ReferenceLogprobs, "compute", compute)

    def run(name: str) -> tuple[list[torch.Tensor], bytes]:
        root = token_scorer(0)
        root.freeze(frozen)
        run, _ = run_dpo(root, tmp_path, tmp_path / name, config())
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


def test_two_ranks_equal_one(tmp_path):
    """By DPO and by KTO. The last batch has one row, so a rank has none; few rows are held out.

    One rank computes in smaller passes than two: KTO's z_0 is that of the whole batch all the same.
    """
    save_set(tmp_path)
    kto_ranks.save_set(tmp_path / "kto")
    run_ranks(Path(dpo_ranks.__file__), tmp_path, timeout=300)
    for method, run_method, settings in (
        ("dpo", run_dpo, config()),
        ("kto", partial(kto_ranks.run_kto, tokens=12), dpo_ranks.KTO),
    ):
        root, folder = token_scorer(0), tmp_path / ("kto" if method == "kto" else "")
        run, reference = run_method(root, folder, tmp_path / method, settings)
        records = run.journals["metrics"].records()
        for rank in range(2):
            found = torch.load(tmp_path / f"rank-{rank}.pt")[method]
            expected = {name: p.detach() for name, p in root.named_parameters()}
            assert_close(found["model"], expected, atol=2e-4)
            torch.testing.assert_close(found["reference"], reference.state(), atol=1e-4, rtol=1e-4)
            for left, right in zip(found["metrics"], records, strict=True):
                assert decided(left) == pytest.approx(decided(right), abs=2e-3)


def decided(record: dict[str, float]) -> dict[str, float]:
    """Figures without those that rounding decides: up to the first update all replies tie.

    The policy is its reference then, in the first validation and in the first step's own pass.
    """
    before = {0: "validation_", 1: ""}.get(int(record["step"]))
    tied = () if before is None else (f"{before}accuracy", f"{before}kendall_tau")
    return {name: value for name, value in record.items() if name not in tied}


def toy_rows(shuffled: bool) -> list[dict[str, Any]]:
    """Replies with the token 7 are better than those with 9; or which is better is chance."""
    generator, rows = random.Random(3), []
    for i in range(64):
        history = [generator.randrange(20, 300) for _ in range(4)]
        filler = [[generator.randrange(20, 300) for _ in range(2)] for _ in range(2)]
        replies = [[*filler[0], 7, 2], [*filler[1], 9, 2]]
        if shuffled and generator.random() < 0.5:
            replies.reverse()
        rows.append({"id": str(i), "history_ids": history, "reply_ids": replies})
    return rows


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_preferences_are_learned_and_noise_is_not(tmp_path, loss, shuffled):
    rows = toy_rows(shuffled)
    save_rows(tmp_path / "set", train=rows[:32], validation=rows[32:])
    optimizer = {"learning_rate": 3e-3, "schedule": "constant", "warmup": 0.0}
    settings = config(loss=loss, epochs=3, global_batch_size=8, optimizer=optimizer)
    run, _ = run_dpo(token_scorer(0), tmp_path, tmp_path / "state", settings)
    looks = [one for one in run.journals["metrics"].records() if "validation_loss" in one]
    last = looks[-1]
    assert looks[0]["validation_reward_margin"] == pytest.approx(0, abs=1e-4)
    if shuffled:
        assert 0.2 < last["validation_accuracy"] < 0.8
    else:
        assert last["validation_accuracy"] > 0.95
        assert last["validation_kendall_tau"] > 0.9
        assert last["validation_loss"] < looks[0]["validation_loss"]
        assert last["validation_chosen_logratio"] > last["validation_rejected_logratio"]


def test_only_the_sigmoid_loss_smooths_labels():
    with pytest.raises(ValidationError, match="label_smoothing belongs to loss: sigmoid"):
        config(loss="ipo", label_smoothing=0.1)
    with pytest.raises(ValidationError, match=r"less than 0\.5"):
        config(label_smoothing=0.5)
