"""RLOO: advantages, gradients, and that it does without a value function."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from support.tiny_models import gradients
from support.tiny_online import config, rloo_config, rollout_of, save_prompts, trainer
from support.tolerances import assert_gradients_near

from rlhf.algorithms.advantages import leave_one_out
from rlhf.algorithms.rloo import Rloo
from rlhf.runtime.deadline import Saved
from rlhf.training.engine.replicated import Replicated


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    return save_prompts(tmp_path_factory.mktemp("prompts"))


def experience_of(learner, update=0):
    return learner.experience(update, learner.roll_out(update))


@pytest.mark.parametrize(
    ("rewards", "k", "centred"),
    [
        ([1.0, 2.0, 6.0, 5.0, 5.0, 5.0], 3, [-3.0, -1.5, 4.5, 0.0, 0.0, 0.0]),
        ([3.0, 1.0, -1.0, 7.0], 2, [2.0, -2.0, -8.0, 8.0]),
        ([1.0, 0.0, 0.0, 0.0], 4, [1.0, -1 / 3, -1 / 3, -1 / 3]),
    ],
)
def test_leave_one_out_by_hand(rewards, k, centred):
    found = leave_one_out(torch.tensor(rewards), k)
    torch.testing.assert_close(found, torch.tensor(centred))
    shifted = torch.tensor(rewards) + torch.arange(len(rewards)).div(k, rounding_mode="floor")
    torch.testing.assert_close(leave_one_out(shifted, k), found)


def test_all_tokens_share_the_advantage_of_their_response_with_its_kl_penalty():
    rewards = [torch.tensor([-0.5, 1.0]), torch.tensor([2.0]), torch.tensor([0.0, 0.0, 1.5])]
    lengths = list(map(len, rewards))
    rollout = rollout_of([torch.zeros(length) for length in lengths])
    settings = rloo_config(responses_per_prompt=3, rollout_batch_size=3, minibatch_size=3)
    credit = Rloo(settings).advantages(rollout, rewards)
    whole = [0.5 - 1.75, 2.0 - 1.0, 1.5 - 1.25]
    assert [part.tolist() for part in credit.advantages] == [
        pytest.approx([advantage] * length)
        for advantage, length in zip(whole, lengths, strict=True)
    ]


@pytest.mark.parametrize("clip", [None, 0.2])
def test_the_gradient_is_that_of_a_plain_loop(prompts, tmp_path, clip):
    """One response at a time, by the model's own forward pass; no ratio is needed where it is 1."""
    learner = trainer(prompts, tmp_path, rloo_config(clip=clip))
    experience = experience_of(learner)
    (rounds,) = learner._rounds(0, 0, experience.rollout.lengths)
    learner._accumulate(experience, rounds)
    found = gradients(learner.actor)
    learner.actor.zero_grad()

    rollout, model = experience.rollout, learner.actor.policy
    rewards, loss, tokens = [], 0.0, sum(map(len, rollout.logprobs))
    for i, score in enumerate(experience.scores):
        log_ratio = rollout.logprobs[i] - experience.reference[i]
        rewards.append(float(score) - 0.1 * float(log_ratio.sum()))
    for i, (ids, start) in enumerate(zip(rollout.sequences, rollout.starts, strict=True)):
        own = range(i // 4 * 4, i // 4 * 4 + 4)  # four responses to each prompt
        baseline = sum(rewards[j] for j in own if j != i) / 3
        logits = model.model(input_ids=ids[None]).logits[0, start - 1 : -1]
        logprobs = logits.log_softmax(-1).gather(1, ids[start:, None])
        loss = loss - (rewards[i] - baseline) * logprobs.sum()
    (loss / tokens).backward()
    assert_gradients_near(gradients(learner.actor), found)


def test_without_a_value_function_there_is_less_to_train(prompts, tmp_path):
    def trained(settings):
        learner = trainer(prompts, tmp_path / type(settings).__name__, settings)
        return sum(part.numel() for _, part in learner.engine.parts()), learner

    ours, learner = trained(rloo_config())
    head, _ = trained(config())
    critic, _ = trained(config(value__kind="critic"))
    assert ours < head < critic
    assert [name for name, _ in learner.actor.named_children()] == ["policy"]
    assert not any(len(values) for values in learner.roll_out(0).values)


@pytest.mark.parametrize("micro_batch_tokens", [1, 40, 10_000])
def test_the_first_ratio_is_exactly_1(monkeypatch, prompts, tmp_path, micro_batch_tokens):
    settings = rloo_config(clip=0.2, minibatch_size=4, epochs=2)
    learner = trainer(prompts, tmp_path, settings, micro_batch_tokens=micro_batch_tokens)
    ratios, accumulate = [], learner._accumulate
    monkeypatch.setattr(
        learner, "_accumulate", lambda *a: ratios.append(accumulate(*a)) or ratios[-1]
    )
    learner.optimise(0, experience_of(learner))
    (measures, ratio), *later = ratios
    assert ratio == 1.0
    assert measures["approx_kl"] == measures["clip_fraction"] == 0
    assert all(ratio != 1.0 for _, ratio in later)


def test_a_run_in_two_parts_is_the_same_run(monkeypatch, prompts, tmp_path):
    settings = rloo_config(updates=4, minibatch_size=4, kl__controller="adaptive")
    straight = trainer(prompts, tmp_path / "straight", settings)
    expected = straight.train().journals["metrics"].records()
    original, calls = Replicated.step, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:  # in the middle of the second update
            os.kill(os.getpid(), signal.SIGUSR2)
        return original(*arguments)

    monkeypatch.setattr(Replicated, "step", interrupted)
    with pytest.raises(Saved, match="after step 2 of 4"):
        trainer(prompts, tmp_path / "parts", settings).train()
    resumed = trainer(prompts, tmp_path / "parts", settings)
    assert resumed.train().journals["metrics"].records() == expected
    for one, other in zip(straight.actor.parameters(), resumed.actor.parameters(), strict=True):
        assert torch.equal(one, other)
