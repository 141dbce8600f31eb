"""Servers are asked while this process computes old log probabilities."""

from __future__ import annotations

import threading

import pytest
import torch
from support.tiny_online import EOS, config, judge, policy, save_prompts, trainer

from rlhf.errors import ServingError
from rlhf.online.reference import ReferenceModel
from rlhf.online.rewards import RewardModel


class RemoteReward(RewardModel):
    """A reward that is asked as a server is."""

    remote = True
    error: Exception | None = None

    def __init__(self) -> None:
        super().__init__(judge(), EOS, 64)
        self.asked = threading.Event()

    def __call__(self, rollout):
        self.asked.set()
        if self.error:
            raise self.error
        return super().__call__(rollout)


class RemoteReference(ReferenceModel):
    remote = True

    def __init__(self) -> None:
        super().__init__(policy(), 1.0, 64)
        self.asked = threading.Event()

    def logprobs(self, rollout):
        self.asked.set()
        return super().logprobs(rollout)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    return save_prompts(tmp_path_factory.mktemp("prompts"))


def test_servers_are_asked_before_old_logprobs_and_give_the_same(tmp_path, mixture):
    local = trainer(mixture, tmp_path / "local", config())
    expected = local.experience(0, local.roll_out(0))
    reward, reference = RemoteReward(), RemoteReference()
    one = trainer(mixture, tmp_path / "remote", config(), reward, reference)

    def wait(*_):
        assert reward.asked.wait(60)
        assert reference.asked.wait(60)

    one.engine._root.register_forward_pre_hook(wait)
    found = one.experience(0, one.roll_out(0))
    assert torch.equal(found.raw_scores, expected.raw_scores)
    assert all(map(torch.equal, found.reference, expected.reference))
    assert all(map(torch.equal, found.credit.advantages, expected.credit.advantages))


def test_a_servers_error_ends_the_run(tmp_path, mixture):
    reward = RemoteReward()
    reward.error = ServingError("The server is gone.", where="reward")
    with pytest.raises(ServingError, match="gone"):
        trainer(mixture, tmp_path, config(), reward).train()
