from __future__ import annotations

import pytest
from support.valid_config import put

from rlhf.config.load import load_config
from rlhf.errors import ConfigError


@pytest.mark.parametrize("run", ["sft.chat", "reward.helpful", "ppo.final"])
def test_moments_of_8_bits_are_for_gpus_and_whole_replicas(valid, run):
    section, name = run.split(".")
    assert getattr(load_config(valid), section)[name].optimizer.kind == "adamw"
    put(valid, f"{run}.optimizer.kind", "adamw_8bit")
    for cluster, expected in (
        ({}, f"{run}.optimizer.kind: needs a GPU, and train_{section} has none"),
        ({"gpus_per_node": 4, "engine": "fsdp"}, "engine fsdp, offload none would cut or move"),
        ({"gpus_per_node": 4, "offload": "all"}, "engine auto, offload all would cut or move"),
    ):
        put(valid, "cluster", cluster)
        with pytest.raises(ConfigError) as refused:
            load_config(valid)
        assert expected in str(refused.value)
    put(valid, "cluster", {"gpus_per_node": 4})
    assert getattr(load_config(valid), section)[name].optimizer.kind == "adamw_8bit"
