"""What a reward model's settings mean for the runs that use it."""

from __future__ import annotations

from typing import Any

import pytest
from support.valid_config import put

from rlhf.config.load import load_config
from rlhf.errors import ConfigError


def test_a_critic_does_not_start_from_means_over_tokens(valid: dict[str, Any]) -> None:
    put(valid, "reward.helpful.pooling", "mean")
    load_config(valid)
    put(valid, "ppo.final.value.kind", "critic")
    with pytest.raises(ConfigError, match=r"a critic starts from reward\.helpful") as caught:
        load_config(valid)
    assert "write head" in str(caught.value)
    put(valid, "ppo.final.value.start", "sft")
    load_config(valid)
    put(valid, "ppo.final.value.start", "reward")
    second = {"sft": "chat", "data": {"demo": {}}}
    put(valid, "reward.second", second)
    put(valid, "ppo.final.reward", ["second", {"model": "helpful", "weight": 0.5}])
    put(valid, "evaluation.final.reward", "second")
    load_config(valid)  # the first one is what it starts from
    put(valid, "reward.second.pooling", "mean")
    with pytest.raises(ConfigError, match=r"a critic starts from reward\.second"):
        load_config(valid)
    put(valid, "reward.second.pooling", "last")
    load_config(valid)


def test_a_loss_says_for_what_it_needs_scores(valid: dict[str, Any]) -> None:
    for loss, key in (
        ({}, None),
        ({"kind": "tokenwise", "label_smoothing": 0.1}, None),
        ({"kind": "regression"}, "loss.kind: regression"),
        ({"kind": "classification", "margin": 0.5}, "loss.margin"),
    ):
        put(valid, "reward.helpful.loss", loss)
        assert load_config(valid).reward["helpful"].loss.scores_for == key
