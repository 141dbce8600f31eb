"""Groups of equal rewards are replaced by further prompts."""

from __future__ import annotations

import math
import os
import signal

import pytest
import torch
from support.tiny_online import CALIBRATION, Parity, grpo_config, save_prompts, trainer

from rlhf.errors import NumericsError
from rlhf.online.prompts import PromptStream
from rlhf.online.terms import RewardSum, Term
from rlhf.runtime.deadline import Saved
from rlhf.training.engine.replicated import Replicated


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    return save_prompts(tmp_path_factory.mktemp("prompts"), count=30)


def settings(**changes):
    values = {
        "responses_per_prompt": 2, "rollout_batch_size": 12, "minibatch_size": 12,
        "rewards__missing_eos_penalty": 0.0, "dynamic_sampling__max_rounds": 8,
    }  # fmt: skip
    return grpo_config(**values | changes)


def spreads(experience):
    return (experience.raw_scores.view(-1, 2).diff().abs() > 0).flatten().tolist()


def test_equal_groups_are_replaced_by_the_next_prompts(prompts, tmp_path):
    """Checklist 46"""
    plain = trainer(prompts, tmp_path / "plain", settings(dynamic_sampling__max_rounds=1), Parity())
    before = plain.experience(0, plain.roll_out(0))
    assert before.rollout.replaced is None
    kept = spreads(before)
    assert any(kept)
    assert not all(kept)

    reward = Parity()
    one = trainer(prompts, tmp_path / "dynamic", settings(), reward)
    rollout = one.roll_out(0)
    experience = one.experience(0, rollout)
    assert all(spreads(experience)), "every group has something to teach"
    for i, informative in enumerate(kept):  # what teaches stays where and what it is
        for j in (2 * i, 2 * i + 1):
            same = torch.equal(rollout.sequences[j], before.rollout.sequences[j])
            assert same == informative
    replaced = rollout.replaced
    assert replaced.rounds > 1
    assert replaced.equal == 0
    assert replaced.groups >= kept.count(False)
    drawn = 6 + replaced.groups
    stream = PromptStream(prompts, 0)
    expected = [row["id"] for row in stream.take(drawn)]
    assert reward.scored == [name for name in expected for _ in range(2)], "each is scored once"
    assert one.prompts.state() == stream.state()
    used = {row["id"] for row in rollout.examples}
    lost = [row for row in PromptStream(prompts, 0).take(drawn) if row["id"] not in used]
    assert len(lost) == replaced.groups
    prompt_tokens = 2 * sum(len(row["input_ids"]) for row in lost)
    longest = 2 * 10 * len(lost)
    assert prompt_tokens + 2 * len(lost) <= replaced.tokens <= prompt_tokens + longest


def test_when_rounds_are_used_up_equal_groups_stay(prompts, tmp_path):
    one = trainer(prompts, tmp_path / "equal", settings(dynamic_sampling__max_rounds=3, updates=1),
                  Parity(constant=True))  # fmt: skip
    (record,) = one.train().journals["metrics"].records()
    assert record["sampling_rounds"] == 3
    assert record["replaced_prompts"] == 12
    assert record["equal_prompts"] == 6
    assert record["episodes"] == 36
    assert one.prompts.state() == {"epoch": 0, "position": 18}
    plain = trainer(prompts, tmp_path / "plain",
                    settings(dynamic_sampling__max_rounds=1, updates=1), Parity())  # fmt: skip
    (other,) = plain.train().journals["metrics"].records()
    assert record["tokens"] > 2 * other["tokens"], "what was sampled in vain is counted"
    assert record["policy_loss"] == 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_no_number_ends_the_run(prompts, tmp_path, value):
    """It is not replaced: nobody would know."""

    class Broken(Parity):
        def __call__(self, rollout):
            return super().__call__(rollout) * 0 + value

    one = trainer(prompts, tmp_path, settings(), Broken())
    with pytest.raises(NumericsError, match="reward model's scores"):
        one.experience(0, one.roll_out(0))


def test_penalties_are_a_difference(prompts, tmp_path):
    """Rewards differ where one response ended and another did not."""
    changes = {"rewards__missing_eos_penalty": 1.0, "updates": 1}
    one = trainer(prompts, tmp_path, settings(**changes), Parity(constant=True))
    experience = one.experience(0, one.roll_out(0))
    assert experience.rollout.replaced.equal == 0
    ends = experience.rollout.ended.view(-1, 2)
    assert (ends[:, 0] != ends[:, 1]).all()


def test_a_run_in_two_parts_is_the_same_run(monkeypatch, prompts, tmp_path):
    """Checklist 40"""
    changes = {"updates": 4, "minibatch_size": 6, "kl__controller": "adaptive"}
    straight = trainer(prompts, tmp_path / "straight", settings(**changes), Parity())
    expected = straight.train().journals["metrics"].records()
    assert len({record["replaced_prompts"] for record in expected}) > 1
    original, calls = Replicated.step, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:  # in the middle of the second update
            os.kill(os.getpid(), signal.SIGUSR2)
        return original(*arguments)

    monkeypatch.setattr(Replicated, "step", interrupted)
    with pytest.raises(Saved, match="after step 2 of 4"):
        trainer(prompts, tmp_path / "parts", settings(**changes), Parity()).train()
    resumed = trainer(prompts, tmp_path / "parts", settings(**changes), Parity())
    assert resumed.train().journals["metrics"].records() == expected
    for one, other in zip(straight.actor.parameters(), resumed.actor.parameters(), strict=True):
        assert torch.equal(one, other)


def test_rewards_of_tokens_are_a_difference(prompts, tmp_path):
    """Of a sum, groups differ where one term does; what each says is kept with its response."""

    class Lengths(Parity):
        def __call__(self, rollout):
            return [torch.ones(len(part)) for part in rollout.sampled]

    terms = [
        Term("equal", [Parity(constant=True)], [CALIBRATION]),
        Term("lengths", [Lengths()], [(0.0, 1.0)], weight=0.1),
    ]
    one = trainer(prompts, tmp_path, settings(updates=1), RewardSum(terms))
    experience = one.experience(0, one.roll_out(0))
    lengths = torch.tensor([float(len(part)) for part in experience.rollout.sampled])
    assert experience.rollout.replaced.groups > 0, "some were as long as each other"
    assert (lengths.view(-1, 2).diff() != 0).all()
    torch.testing.assert_close(experience.terms["lengths"], lengths)
    torch.testing.assert_close(experience.token_rewards, 0.1 * lengths)
    assert experience.terms["equal"].tolist() == [1.0] * 12
