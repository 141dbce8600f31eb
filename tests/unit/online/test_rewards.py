from __future__ import annotations

import math

import pytest
import torch
from support.tiny_online import config, rollout_of

from rlhf.online.rewards import RewardShaping, RunningScale


def shaping(calibration=(0.0, 1.0), **changes):
    """Shaping with a clip of 1, a penalty of 1 and no KL penalty, but for the changes."""
    values = {"rewards__clip": 1.0, "rewards__missing_eos_penalty": 1.0, "kl__coefficient": 0.0}
    return RewardShaping(config(**values | changes), calibration)


def scores_of(raw, ended, shape):
    """Scores of responses of one token each, from which the reference does not differ."""
    rollout = rollout_of([torch.zeros(1)] * len(raw), torch.tensor(ended))
    scores, rewards = shape(torch.tensor(raw), rollout, rollout.logprobs)
    assert torch.equal(torch.cat(rewards), scores)
    return scores


def rewards_of(scores, policy, reference, **changes):
    shape = shaping(rewards__clip=100.0, **changes)
    return shape(torch.tensor(scores), rollout_of(policy), reference)[1]


def test_the_table_of_reward_shaping():
    """Checklist 42"""
    lines = [line.split() for line in RewardShaping.__doc__.splitlines()]
    table = [line for line in lines if len(line) == 5 and line[1] in ("yes", "no")]
    assert len(table) == 4
    for raw, ended, calibrated, clipped, result in table:
        shape = shaping((1.0, 2.0))
        found = scores_of([float(raw)], [ended == "yes"], shape)
        assert float(found) == pytest.approx(float(result))
        unclipped = shaping((1.0, 2.0), rewards__clip=100.0)
        assert float(scores_of([float(raw)], [True], unclipped)) == pytest.approx(float(calibrated))
        assert float(scores_of([float(raw)], [True], shape)) == pytest.approx(float(clipped))


def test_the_penalty_comes_after_the_clip():
    """Checklist 33, 42"""
    shape = shaping(rewards__missing_eos_penalty=0.25)
    found = scores_of([9.0, 9.0, -9.0], [True, False, False], shape)
    assert found.tolist() == [1.0, 0.75, -1.25]


def test_the_score_lands_on_the_last_token_alone():
    """Checklist 22"""
    policy = [torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-0.5])]
    reference = [torch.tensor([-1.5, -1.0, -3.0]), torch.tensor([-1.5])]
    found = rewards_of([2.0, -1.0], policy, reference, kl__coefficient=0.1)
    torch.testing.assert_close(found[0], torch.tensor([-0.05, 0.1, 2.0]))
    torch.testing.assert_close(found[1], torch.tensor([-1.1]))
    assert policy[0].tolist() == [-1.0, -2.0, -3.0], "log probabilities are not written to"


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_without_coefficient_only_the_score_is_left(estimator):
    """Checklist 22"""
    policy, reference = [torch.tensor([-1.0, -2.0])], [torch.tensor([-9.0, -0.1])]
    found = rewards_of([3.0], policy, reference, kl__estimator=estimator)
    torch.testing.assert_close(found[0], torch.tensor([0.0, 3.0]))


def test_the_named_estimator_is_used():
    """Checklist 23"""
    policy, reference = [torch.tensor([-1.0, -1.0])], [torch.tensor([-1.5, -1.5])]
    first = {
        e: float(rewards_of([0.0], policy, reference, kl__coefficient=1.0, kl__estimator=e)[0][0])
        for e in ("k1", "k2", "k3")
    }
    assert first == pytest.approx({"k1": -0.5, "k2": -0.125, "k3": -0.1065307}, rel=1e-5)


def test_a_penalty_in_the_loss_is_not_in_the_reward():
    """Checklist 22"""
    policy, reference = [torch.tensor([-1.0, -2.0])], [torch.tensor([-9.0, -0.1])]
    changes = {"kl__where": "loss", "kl__estimator": "k3", "kl__coefficient": 0.5}
    found = rewards_of([3.0], policy, reference, **changes)
    torch.testing.assert_close(found[0], torch.tensor([0.0, 3.0]))


def test_the_running_std_is_that_of_all_scores_so_far():
    """Checklist 27"""
    scores = torch.randn(200, generator=torch.Generator().manual_seed(0)) * 3 + 40
    scale, start = RunningScale(), 0
    for size in (1, 7, 32, 60, 100):
        found = scale.update(scores[start : start + size])
        start += size
        if start > 1:
            exact = float(scores[:start].double().std(correction=0))
            assert found == pytest.approx(exact, rel=1e-9)
        else:
            assert found == 1.0
    assert scale.mean == pytest.approx(float(scores.double().mean()), rel=1e-9)


def test_scaling_subtracts_no_mean_and_clips_afterwards():
    """Checklist 27"""
    raw, ended = [10.0, 14.0], [True, True]  # std 2: scaled 5 and 7
    running = shaping(rewards__scaling="running", rewards__clip=6.0)
    torch.testing.assert_close(scores_of(raw, ended, running), torch.tensor([5.0, 6.0]))
    assert scores_of(raw, ended, shaping(rewards__clip=6.0)).tolist() == [6.0, 6.0]


def test_the_scale_goes_on_from_its_state():
    """Checklist 40"""
    scores = torch.randn(40)
    straight, first, second = RunningScale(), RunningScale(), RunningScale()
    straight.update(scores[:15])
    first.update(scores[:15])
    second.load(first.state())
    assert straight.update(scores[15:]) == second.update(scores[15:])
    assert second.state() == straight.state()
    assert not math.isclose(second.state()["squares"], first.state()["squares"])


def test_scores_that_differ_by_rounding_alone_are_not_scaled():
    """Divided by their spread they would all be clipped, on either side, by chance."""
    scale, constant = RunningScale(), torch.full((8,), -0.3)
    noise = torch.tensor([0, 3e-8] * 4)
    assert float((constant + noise).std()) > 0
    assert scale.update(constant + noise) == 1.0
    spread = scale.update(torch.tensor([-0.3, -0.2]))
    assert 0.01 < spread < 0.1
    assert RunningScale().update(torch.tensor([0.0, 1e-3])) == pytest.approx(5e-4)
