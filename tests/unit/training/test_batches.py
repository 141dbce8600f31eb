from __future__ import annotations

import logging

import pytest

from rlhf.errors import ConfigError
from rlhf.training.batches import check_batches, check_rollouts

PPO = {"rollout_batch_size": 24, "minibatch_size": 8}


@pytest.mark.parametrize(("ranks", "nearest"), [(25, 32), (32, 32), (100, 104)])
def test_more_ranks_than_responses_are_refused_with_the_nearest_size(ranks, nearest):
    with pytest.raises(ConfigError, match=f"24 responses can't be shared by {ranks} ranks") as it:
        check_rollouts("ppo", "final", PPO, ranks)
    assert it.value.where == "ppo.final.rollout_batch_size: 24"
    assert f"{nearest} is the nearest multiple of minibatch_size 8" in str(it.value)
    assert "at most 24 ranks" in str(it.value)


@pytest.mark.parametrize(
    ("section", "config", "ranks", "said"),
    [
        ("ppo", PPO, 8, ""),
        ("ppo", PPO, 24, "ppo.x.minibatch_size: 8 keeps only 8 of 24 ranks busy at a time"),
        ("sft", {"global_batch_size": 4}, 4, ""),
        ("reward", {"global_batch_size": 4}, 5,
         "reward.x.global_batch_size: 4 keeps only 4 of 5 ranks busy at a time"),
    ],
)  # fmt: skip
def test_idle_ranks_are_mentioned(caplog, section, config, ranks, said):
    caplog.set_level(logging.INFO)
    check = check_rollouts if config is PPO else check_batches
    check(section, "x", config, ranks)
    assert caplog.messages == ([said] if said else [])
