"""GRPO's and REINFORCE++'s advantages, against their papers' formulas in float64."""

from __future__ import annotations

import statistics

import pytest
import torch
from support.tiny_online import grpo_config, reinforce_config, rollout_of

from rlhf.algorithms.advantages import group_relative
from rlhf.algorithms.grpo import Grpo
from rlhf.algorithms.reinforce import Reinforce

LENGTHS, K = [3, 1, 5, 2, 4, 2], 3


def token_rewards(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, generator=generator) for length in LENGTHS]


def credit_of(method, settings, rewards):
    return method(settings).advantages(rollout_of(rewards), rewards)


def batch(**changes):
    sizes = {"rollout_batch_size": 6, "minibatch_size": 6, "responses_per_prompt": K}
    return sizes | changes


@pytest.mark.parametrize("normalize", ["std", "none"])
def test_grpo(normalize):
    rewards = token_rewards()
    credit = credit_of(Grpo, grpo_config(**batch(normalize=normalize)), rewards)
    whole = [sum(part.double().tolist()) for part in rewards]
    for i, advantages in enumerate(credit.advantages):
        group = whole[i // K * K : i // K * K + K]
        expected = whole[i] - statistics.fmean(group)
        if normalize == "std":
            expected /= statistics.stdev(group) + 1e-6
        assert advantages.tolist() == pytest.approx([expected] * LENGTHS[i], abs=1e-5)
    assert all(len(part) == 0 for part in credit.returns)


def test_a_group_of_equal_rewards_has_no_advantage():
    """Checklist 46"""
    equal = torch.tensor([0.3, 0.3 + 3e-8, 0.3, 1.0, 1.0, 2.0])
    assert equal[0] != equal[1]
    for by_std in (True, False):
        found = group_relative(equal, 3, by_std)
        assert found[:3].tolist() == [0.0] * 3
        assert (found[3:] != 0).all()
    assert group_relative(torch.zeros(4), 2, True).tolist() == [0.0] * 4


@pytest.mark.parametrize("baseline", ["none", "group"])
def test_reinforce(baseline):
    rewards = token_rewards(1)
    settings = reinforce_config(**batch(baseline=baseline))
    credit = credit_of(Reinforce, settings, rewards)
    plain = [part.double().tolist() for part in rewards]
    to_go = [[sum(part[t:]) for t in range(len(part))] for part in plain]
    if baseline == "group":
        means = [statistics.fmean(map(sum, plain[i : i + K])) for i in (0, K)]
        to_go = [[value - means[i // K] for value in part] for i, part in enumerate(to_go)]
    tokens = [value for part in to_go for value in part]
    mean, std = statistics.fmean(tokens), statistics.pstdev(tokens)
    for found, part in zip(credit.advantages, to_go, strict=True):
        assert found.tolist() == pytest.approx([(v - mean) / std for v in part], abs=1e-5)
