"""On-policy methods solve a toy: more of one token. With shuffled rewards they do not."""

from __future__ import annotations

import pytest
import torch
from support.tiny_online import (
    CALIBRATION,
    config,
    grpo_config,
    policy,
    reinforce_config,
    rloo_config,
    save_prompts,
    trainer,
)

from rlhf.online.rollout import Rollout

FAVOURITE, LENGTH, UPDATES = 7, 4, 16
SEEDS = (0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2)))
METHODS = [
    pytest.param(config, {"epochs": 2}, id="ppo"),
    pytest.param(rloo_config, {"epochs": 2, "clip": 0.2}, id="rloo, clipped"),
    pytest.param(rloo_config, {"responses_per_prompt": 6}, id="rloo, plain"),
    pytest.param(grpo_config, {"epochs": 2, "responses_per_prompt": 6}, id="grpo"),
    pytest.param(reinforce_config, {"epochs": 2}, id="reinforce"),
]


class TokenShare:
    """A reward function: the share of one token in the response."""

    remote = False

    def __init__(self, shuffled: bool) -> None:
        self.generator = torch.Generator().manual_seed(0) if shuffled else None
        self.shares: list[float] = []

    def __call__(self, rollout: Rollout) -> torch.Tensor:
        responses = [ids[LENGTH:] for ids in rollout.sequences]
        shares = torch.stack([(ids == FAVOURITE).float().mean() for ids in responses])
        self.shares.append(float(shares.mean()))
        if self.generator is not None:
            shares = shares[torch.randperm(len(shares), generator=self.generator)]
        mean, std = CALIBRATION
        return 4 * shares * std + mean  # calibrated: four times the share


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    return save_prompts(tmp_path_factory.mktemp("prompts"), count=64, length=LENGTH)


def learn(mixture, folder, seed, shuffled, method=config, **own):
    settings = method(
        updates=UPDATES, rollout_batch_size=48, minibatch_size=24, seed=seed,
        sampling__max_new_tokens=8, kl__coefficient=0.02, rewards__missing_eos_penalty=0.0,
        optimizer__learning_rate=4e-3, optimizer__schedule="constant", **own,
    )  # fmt: skip
    reward, model = TokenShare(shuffled), policy(seed)
    learner = trainer(mixture, folder, settings, reward, micro_batch_tokens=4096, model=model)
    records = learner.train().journals["metrics"].records()
    first, last = sum(reward.shares[:3]) / 3, sum(reward.shares[-3:]) / 3
    return first, last, records


@pytest.mark.parametrize(("method", "own"), METHODS)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_reward_rises(mixture, tmp_path, seed, method, own):
    """Checklist 45"""
    first, last, records = learn(mixture, tmp_path, seed, False, method, **own)
    print(f"share {first:.3f} → {last:.3f}, KL {records[-1]['kl']:.2f}")
    assert first < 0.2
    assert last > 0.6
    assert records[-1]["reward"] > records[0]["reward"] + 1.5
    assert records[-1]["kl"] < 40  # 8 tokens of log 24 nats each would be 25
    assert max(record["approx_kl"] for record in records) < 0.5


@pytest.mark.parametrize(("method", "own"), METHODS)
@pytest.mark.parametrize("seed", SEEDS)
def test_shuffled_rewards_teach_nothing(mixture, tmp_path, seed, method, own):
    """Checklist 45"""
    first, last, _ = learn(mixture, tmp_path, seed, True, method, **own)
    print(f"share {first:.3f} → {last:.3f}")
    assert last < first + 0.15
