"""Implicit language Q-learning, against the paper's formulas in float64, and as a run."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from support.programs import ilql_ranks
from support.programs.dpo_ranks import make_rows, save_set
from support.programs.ilql_ranks import config, in_parts, result, root, run_ilql
from support.tiny_models import assert_close, gradients, run_ranks, save_rows, token_scorer
from support.tiny_settings import lora
from torch import nn

from rlhf.algorithms.ilql import (
    IlqlObjective,
    backed_up,
    cql_loss,
    policy_loss,
    q_loss,
    rank_rewards,
    score_scale,
    value_loss,
)
from rlhf.core.seeds import generator as stream
from rlhf.errors import ConfigError, DataError
from rlhf.models.adapters import add_adapter
from rlhf.models.advantage import AdvantagePolicy
from rlhf.models.generate import generate, uniforms
from rlhf.models.ilql import Ilql, ValueHeads
from rlhf.models.roots import TokenScorer
from rlhf.runtime.options import EngineOptions
from rlhf.training.engine.open import open_engine
from rlhf.training.engine.replicated import Replicated

EOS = 2


def output(head: Any, state: torch.Tensor) -> torch.Tensor:
    """W₂·max(0, W₁·s + b₁) + b₂."""
    inner = head.inner.weight @ state + head.inner.bias
    return head.outer.weight @ inner.clamp(min=0) + head.outer.bias


def plain_losses(model: Ilql, rows: list[dict], settings: Any) -> dict[str, torch.Tensor]:
    """Sums of the paper's losses, token by token, of a model in float64."""
    policy, heads = model.policy.model, model.heads
    sums = dict.fromkeys(("q", "value", "cql", "policy"), torch.tensor(0.0, dtype=torch.float64))
    for row in rows:
        replies = row["reply_ids"]
        for rank, reply in enumerate(replies):
            ids = row["history_ids"] + reply
            states = policy.model(input_ids=torch.tensor([ids])).last_hidden_state[0].double()
            for t in range(len(row["history_ids"]), len(ids)):
                last, state = t == len(ids) - 1, states[t - 1]
                reward = 1 - 2 * rank / (len(replies) - 1) if last else 0.0
                after = 0.0 if last else output(heads.value, states[t]).detach()
                value = output(heads.value, state)
                all_q = [output(head, state) for head in heads.q]
                target = min(output(head, state)[ids[t]].detach() for head in heads.target)
                for q in all_q:
                    error = q[ids[t]] - (reward + settings.gamma * after)
                    sums["q"] = sums["q"] + (error**2).sum()
                    sums["cql"] = sums["cql"] + q.exp().sum().log() - q[ids[t]]
                u = target - value
                sign = 1.0 if u < 0 else 0.0
                sums["value"] = sums["value"] + (abs(settings.tau - sign) * u**2).sum()
                weight = torch.exp(settings.awac_beta * u.detach()).sum()
                logits = policy.lm_head.weight @ state
                logprob = logits[ids[t]] - logits.exp().sum().log()
                sums["policy"] = sums["policy"] - weight * logprob
    return sums


@pytest.mark.parametrize(
    ("changes", "shared"),
    [
        ({}, True),
        ({}, False),
        ({"gamma": 0.5}, True),
        ({"tau": 0.9}, True),
        ({"cql_scale": 0.7}, True),
        ({"awac_scale": 0.2}, True),
        ({"awac_beta": 2.0}, True),
        ({"two_qs": False}, True),
    ],
)
def test_equals_a_plain_loop(monkeypatch, changes, shared):
    """In value and gradients, with shared passes over histories and without."""
    monkeypatch.setattr(TokenScorer, "shares_prompts", shared)
    settings, rows = config(**changes), make_rows(2)
    model = root(two_qs=settings.two_qs)
    for head in model.heads.target:  # no copies any more
        nn.init.normal_(head.outer.bias)
    exact = copy.deepcopy(model).double()
    loss, measures = IlqlObjective(settings, shared)(model, rows)
    loss.backward()
    sums = plain_losses(exact, rows, settings)
    expected = (
        sums["q"]
        + sums["value"]
        + settings.cql_scale * sums["cql"]
        + settings.awac_scale * sums["policy"]
    )
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    for name, value in sums.items():
        assert float(measures[f"{name}_loss"]) == pytest.approx(float(value.detach()), rel=1e-4)
    wide = {name: each.float() for name, each in gradients(exact).items()}
    assert_close(gradients(model), wide, atol=2e-3)
    assert not any(name.startswith("heads.target") for name in wide)


def test_narrow_products_round_and_no_more():
    wide, narrow = root(), root()
    narrow.policy.compute_in("bfloat16")
    objective, rows = IlqlObjective(config(), True), make_rows(2)
    losses = [objective(model, rows)[0] for model in (wide, narrow)]
    for loss in losses:
        loss.backward()
    assert losses[0] != losses[1]
    assert float(losses[1].detach()) == pytest.approx(float(losses[0].detach()), rel=1e-2)
    assert {grad.dtype for grad in gradients(narrow).values()} == {torch.float32}


def test_a_token_of_a_longer_row_counts_no_more():
    objective, rows = IlqlObjective(config(), True), make_rows(3)
    assert [objective.weight(row) for row in rows] == [
        sum(len(reply) for reply in row["reply_ids"]) for row in rows
    ]


@pytest.mark.parametrize(
    ("replies", "rewards"), [(2, [1, -1]), (3, [1, 0, -1]), (5, [1, 0.5, 0, -0.5, -1])]
)
def test_rewards_by_rank(replies, rewards):
    assert rank_rewards(replies) == pytest.approx(rewards)


def test_rewards_by_scores_are_standardized():
    """In float64, over all replies; the loss is that of these rewards."""
    graded = ([5.0, 1.0], [4.0, 3.0, -2.0])
    rows = [row | {"scores": scores} for row, scores in zip(make_rows(2), graded, strict=True)]
    every = [score for scores in graded for score in scores]
    mean = sum(every) / 5
    std = (sum((score - mean) ** 2 for score in every) / 4) ** 0.5
    scale = score_scale("ilql.x", rows)
    assert scale == pytest.approx((mean, std), rel=1e-12)
    objective, model = IlqlObjective(config(rewards="scores"), True, scale), root()
    for row in rows:
        expected = [(score - mean) / std for score in row["scores"]]
        assert objective.rewards(row) == pytest.approx(expected, rel=1e-12)
    by_rank = IlqlObjective(config(), True)(model, rows)[1]["q_loss"]
    assert float(objective(model, rows)[1]["q_loss"]) != pytest.approx(float(by_rank), rel=1e-3)


@pytest.mark.parametrize(
    ("scores", "said"), [(None, "no scores of their own"), ([2.0, 2.0], "the same score")]
)
def test_rewards_by_scores_that_say_nothing_are_refused(scores, said):
    row = make_rows(1)[0] | ({"scores": scores} if scores else {})
    with pytest.raises(DataError, match=rf"{said}(.|\n)*write rewards: rank"):
        score_scale("ilql.x", [row])


def test_the_reward_comes_last_and_nothing_after_it():
    values = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    found = backed_up(values, [1.0, -1.0], [2, 3], 0.9)
    assert found.tolist() == pytest.approx([0.18, 1.0, 0.36, 0.45, -1.0])


def test_the_terms_by_their_formulas():
    """Of random numbers, in float64."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, backups, values, targets, logprobs = draw(2, 6), draw(6), draw(6), draw(6), -draw(6).abs()
    squares = [(float(q[i, t]) - float(backups[t])) ** 2 for i in range(2) for t in range(6)]
    assert float(q_loss(q, backups)) == pytest.approx(sum(squares), rel=1e-12)
    total = 0.0
    for target, value in zip(targets.tolist(), values.tolist(), strict=True):
        u = target - value
        total += (0.8 if u > 0 else 0.2) * u * u
    assert float(value_loss(values, targets, 0.8)) == pytest.approx(total, rel=1e-12)
    every = draw(6, 11)
    logs = every.log_softmax(-1)[:, 4]
    spread = (every.exp().sum(-1).log() - every[:, 4]).sum()
    assert float(cql_loss(logs[None])) == pytest.approx(float(spread), rel=1e-12)
    weighed = -(torch.exp(3 * values) * logprobs).sum()
    assert float(policy_loss(logprobs, values, 3.0)) == pytest.approx(float(weighed), rel=1e-12)
    plain = policy_loss(logprobs, values, 0.0)
    assert float(plain) == pytest.approx(-float(logprobs.sum()), rel=1e-12)


def test_v_of_least_loss_is_the_expectile():
    """At which τ·E[(q − v)⁺] = (1 − τ)·E[(v − q)⁺]; of τ = 1/2 the mean."""
    targets = torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64)
    for tau, expected in ((0.5, 2.0), (0.9, None)):
        value = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([value], max_iter=50)

        def closure(value=value, tau=tau, optimizer=optimizer):
            optimizer.zero_grad()
            loss = value_loss(value.expand(3), targets, tau)
            loss.backward()
            return loss

        optimizer.step(closure)
        over = (targets - value).clamp(min=0).sum() * tau
        under = (value - targets).clamp(min=0).sum() * (1 - tau)
        assert float(over.detach()) == pytest.approx(float(under.detach()), abs=1e-6)
        if expected is not None:
            assert float(value.detach()) == pytest.approx(expected, abs=1e-6)
        else:
            assert float(value.detach()) > 3


def test_accuracy_is_that_of_q_at_the_last_tokens():
    rows, model = make_rows(2), root()
    _, measures = IlqlObjective(config(), True)(model, rows)
    total = 0.0
    for row in rows:
        scores = []
        for reply in row["reply_ids"]:
            *_, targets = model(
                [torch.tensor(row["history_ids"] + reply)], [len(row["history_ids"])]
            )
            scores.append(float(targets[-1]))
        pairs = [(i, j) for i in range(len(scores)) for j in range(i + 1, len(scores))]
        right = sum(scores[i] > scores[j] for i, j in pairs) / len(pairs)
        total += right * sum(map(len, row["reply_ids"]))
    assert float(measures["accuracy"]) == pytest.approx(total)


@pytest.mark.parametrize(("alpha", "every"), [(0.3, 1), (1.0, 3)])
def test_targets_follow_q(tmp_path, monkeypatch, alpha, every):
    """t ← (1 − α)·t + α·q after every so many updates, in float64."""
    save_set(tmp_path)
    model, seen = root(), []
    start = {name: p.detach().double() for name, p in model.heads.q.named_parameters()}
    original = Replicated.step

    def step(engine, factor):
        norm = original(engine, factor)
        seen.append({n: p.detach().double().clone() for n, p in model.heads.q.named_parameters()})
        return norm

    monkeypatch.setattr(Replicated, "step", step)
    settings = config(alpha=alpha, steps_for_target_q_sync=every)
    run_ilql(model, tmp_path, tmp_path / "state", settings)
    assert len(seen) == 4
    expected = start
    for number, q in enumerate(seen, 1):
        if number % every == 0:
            expected = {n: (1 - alpha) * expected[n] + alpha * q[n] for n in q}
    found = dict(model.heads.target.named_parameters())
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name].double(), tensor, atol=1e-6, rtol=1e-5)
        assert not torch.equal(tensor, start[name])


def test_a_frozen_trunk_changes_no_trained_gradient():
    rows = make_rows(2)
    whole, frozen = root(), root()
    frozen.policy.freeze(1)
    for model in (whole, frozen):
        IlqlObjective(config(), True)(model, rows)[0].backward()
    expected, found = gradients(whole), gradients(frozen)
    assert 0 < len(found) < len(expected)
    assert_close(found, {name: expected[name] for name in found}, atol=1e-5)


def test_beside_an_adapter_the_heads_are_trained():
    model = root()
    add_adapter(model.policy.model, lora(), 0, "x")
    IlqlObjective(config(), True)(model, make_rows(2))[0].backward()
    names = gradients(model).keys()
    assert {name for name in names if name.startswith("policy.")}
    assert all("lora_" in name for name in names if name.startswith("policy."))
    heads = {name for name, _ in model.named_parameters() if name.startswith("heads.")}
    assert {name for name in heads if "target" not in name} <= names


def test_a_run_in_two_parts_is_the_same_run(tmp_path):
    """Targets too, to the byte."""
    save_set(tmp_path)
    straight = result(*run_ilql(root(), tmp_path, tmp_path / "straight", config()))
    parts = in_parts(tmp_path, tmp_path / "parts", "replicated")
    assert parts["metrics"] == straight["metrics"]
    assert parts["model"].keys() == straight["model"].keys()
    for name, tensor in straight["model"].items():
        assert torch.equal(parts["model"][name], tensor), name


def test_two_ranks_equal_one(tmp_path, monkeypatch):
    """Whole or in slices. The last batch has one row, so a rank has none."""
    monkeypatch.setenv("TORCH_DISTRIBUTED_DEBUG", "DETAIL")
    save_set(tmp_path)
    alone = result(*run_ilql(root(), tmp_path, tmp_path / "one", config()))
    run_ranks(Path(ilql_ranks.__file__), tmp_path, timeout=200)
    ranks = [torch.load(tmp_path / f"rank-{rank}.pt") for rank in range(2)]
    for found in ranks:
        for kind in ilql_ranks.KINDS:
            assert_close(found[kind]["model"], alone["model"], atol=2e-4)
            for left, right in zip(found[kind]["metrics"], alone["metrics"], strict=True):
                if kind == "fsdp":  # of which ranks share no pass over a history
                    left, right = left | {"tokens": 0}, right | {"tokens": 0}
                assert left == pytest.approx(right, abs=2e-3)
        for name, tensor in found["fsdp"]["model"].items():
            assert torch.equal(found["parts"]["model"][name], tensor), name
    targets = sum(p.numel() for p in root().heads.target.parameters())
    assert sum(found["held"] for found in ranks) == targets


@pytest.mark.parametrize("kind", ["zero1", "zero3"])
def test_engines_that_keep_no_targets_are_refused(kind):
    with pytest.raises(ConfigError, match=r"follow others(.|\n)*take the engine fsdp"):
        open_engine(root(), {"": 1e-2}, config().optimizer, EngineOptions(kind))


def toy_rows(shuffled: bool) -> list[dict[str, Any]]:
    """A reply is the token 7 or 9: 7 is better, or in every other row."""
    generator, rows = random.Random(3), []
    for i in range(64):
        history = [generator.randrange(10, 24) for _ in range(4)]
        replies = [[7, EOS], [9, EOS]]
        if shuffled and i % 2:
            replies.reverse()
        rows.append({"id": str(i), "history_ids": history, "reply_ids": replies})
    return rows


def mean_reward(policy: TokenScorer) -> float:
    """Of 400 sampled responses: 1 for the token 7, −1 for 9, 0 for what is no reply."""
    generator = random.Random(5)
    prompts = [torch.tensor([generator.randrange(10, 24) for _ in range(4)]) for _ in range(400)]
    responses = generate(policy, prompts, uniforms(stream(0, "test"), 400, 2), EOS)
    kinds = {(7, EOS): 1, (9, EOS): -1}
    return sum(kinds.get(tuple(one.ids.tolist()), 0) for one in responses) / 400


@pytest.mark.parametrize("shuffled", [False, True])
def test_decoding_earns_more_than_sft_unless_rewards_are_noise(tmp_path, shuffled):
    """The policy itself is SFT of all replies, good and bad."""
    rows = toy_rows(shuffled)
    save_rows(tmp_path / "set", train=rows[:48], validation=rows[48:])
    optimizer = {"learning_rate": 1e-2, "schedule": "constant", "warmup": 0.0}
    settings = config(
        epochs=8, global_batch_size=8, optimizer=optimizer, alpha=0.2, awac_beta=0.0, cql_scale=0.1
    )
    policy = token_scorer(0, vocabulary=24)
    model = Ilql(policy, ValueHeads(policy.width, 24, True, 0))
    run, _ = run_ilql(model, tmp_path, tmp_path / "state", settings)
    looks = [one for one in run.journals["metrics"].records() if "validation_loss" in one]
    sft = mean_reward(model.policy.eval())
    found = mean_reward(AdvantagePolicy(model.policy, model.heads, 4.0, 0))
    assert abs(sft) < 0.4
    if shuffled:
        assert found < 0.5
        assert 0.2 < looks[-1]["validation_accuracy"] < 0.8
    else:
        assert found > 0.8
        assert looks[-1]["validation_accuracy"] == 1
