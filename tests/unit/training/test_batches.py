from __future__ import annotations

import logging

import pytest

from rlhf.config.offline import OfflineConfig
from rlhf.config.ppo import PpoConfig
from rlhf.errors import ConfigError
from rlhf.training.batches import check_batches, check_rollouts


def ppo(rollout: int, minibatch: int, responses: int = 1) -> PpoConfig:
    sizes = {"rollout_batch_size": rollout, "minibatch_size": minibatch}
    run = {"sft": "s", "reward": "r", "data": {"d": {}}, "responses_per_prompt": responses}
    return PpoConfig.model_validate(run | sizes)


@pytest.mark.parametrize(
    ("config", "ranks", "prompts", "nearest"),
    [
        (ppo(24, 8), 25, 24, 32),
        (ppo(24, 8), 32, 24, 32),
        (ppo(24, 8), 100, 24, 104),
        (ppo(24, 8, 4), 7, 6, 32),  # 7 prompts with 4 responses make 28
        (ppo(24, 8, 3), 9, 8, 48),  # 27, and both 8 and 3 must divide it
    ],
)
def test_more_ranks_than_prompts_are_refused_with_the_nearest_size(config, ranks, prompts, nearest):
    with pytest.raises(ConfigError, match=rf"\({prompts}\) can't be shared by {ranks} ranks") as it:
        check_rollouts("ppo", "final", config, ranks)
    assert it.value.where == "ppo.final.rollout_batch_size: 24"
    assert f"{nearest} is the nearest size that minibatch_size 8 and" in str(it.value)
    assert f"set rollout_batch_size to {nearest}, or use at most {prompts} ranks" in str(it.value)
    larger = config.model_copy(update={"rollout_batch_size": nearest})
    check_rollouts("ppo", "final", PpoConfig.model_validate(larger.model_dump()), ranks)


@pytest.mark.parametrize(
    ("config", "ranks", "said"),
    [
        (ppo(24, 8), 8, ""),
        (ppo(24, 8), 24, "ppo.x.minibatch_size: 8 keeps only 8 of 24 ranks busy at a time"),
        (ppo(24, 8, 4), 6, "ppo.x.minibatch_size: 8 keeps only 2 of 6 ranks busy at a time"),
    ],
)
def test_ranks_without_responses_are_mentioned(caplog, config, ranks, said):
    caplog.set_level(logging.INFO)
    check_rollouts("ppo", "x", config, ranks)
    assert caplog.messages == ([said] if said else [])


@pytest.mark.parametrize(
    ("section", "rows", "ranks", "said"),
    [
        ("sft", 4, 4, ""),
        ("reward", 4, 5, "reward.x.global_batch_size: 4 keeps only 4 of 5 ranks busy at a time"),
    ],
)
def test_ranks_without_rows_are_mentioned(caplog, section, rows, ranks, said):
    caplog.set_level(logging.INFO)
    config = OfflineConfig(data={"d": {}}, global_batch_size=rows)
    check_batches(section, "x", config, ranks)
    assert caplog.messages == ([said] if said else [])
