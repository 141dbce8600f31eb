"""Soft punishment of long responses: DAPO's equation 13."""

from __future__ import annotations

import pytest
import torch
from support.tiny_online import config, rollout_of

from rlhf.online.overlong import overlong_penalties
from rlhf.online.rewards import RewardShaping


def soft_punishment(length, longest, cache):
    if length <= longest - cache:
        return 0.0
    return ((longest - cache) - length) / cache if length <= longest else -1.0


@pytest.mark.parametrize(("buffer", "penalty"), [(4, 1.0), (10, 0.5), (1, 2.0)])
def test_the_punishment_is_the_papers(buffer, penalty):
    settings = config(overlong__buffer=buffer, overlong__penalty=penalty)
    found = overlong_penalties(torch.arange(1, 11), settings)
    expected = [-penalty * soft_punishment(length, 10, buffer) for length in range(1, 11)]
    assert found.tolist() == pytest.approx(expected)
    assert found[-1] == penalty


def test_it_comes_after_the_clip_and_beside_the_penalty_for_a_missing_eos():
    settings = config(
        overlong__buffer=4, rewards__clip=1.0, rewards__missing_eos_penalty=0.25, kl__coefficient=0
    )
    lengths = [3, 8, 10, 10]
    rollout = rollout_of([torch.zeros(n) for n in lengths], torch.tensor([True, True, True, False]))
    scores, rewards = RewardShaping(settings, (0.0, 1.0))(
        torch.full((4,), 9.0), rollout, rollout.logprobs
    )
    assert scores.tolist() == [1.0, 0.5, 0.0, -0.25]
    assert [float(part.sum()) for part in rewards] == scores.tolist()
