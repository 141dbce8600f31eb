"""PPO's presets, and settings that exclude each other."""

from __future__ import annotations

import copy

import pytest
from support.valid_config import VALID, put

from rlhf.config.load import load_config
from rlhf.config.ppo import PpoConfig
from rlhf.config.presets import PRESETS
from rlhf.errors import ConfigError
from rlhf.pipeline.slices import config_slice

RUN = {"sft": "s", "reward": "r", "data": {"d": {}}}


def test_what_a_run_writes_goes_before_its_preset():
    run = PpoConfig.model_validate(
        RUN | {"preset": "deepspeed_chat", "value": {"learning_rate": 1e-3}, "clip": 0.3}
    )
    assert (run.value.learning_rate, run.clip) == (1e-3, 0.3)
    assert (run.value.kind, run.value.coefficient, run.advantages) == ("critic", 1.0, "none")
    assert run.gamma == 1.0


@pytest.mark.parametrize("name", PRESETS)
def test_a_slice_has_all_values_and_the_preset_adds_none(name):
    values = put(copy.deepcopy(VALID), "ppo.final.preset", name)
    found = config_slice(load_config(values), "train_ppo", "final")
    assert found["preset"] == name
    assert found["optimizer"]["learning_rate"] == PRESETS[name]["optimizer"]["learning_rate"]
    changed = found | {"clip": 0.123}
    assert PpoConfig.from_slice(changed).clip == 0.123
    assert PpoConfig.from_slice(found).model_dump(mode="json") == found


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"preset": "trl"}, "preset"),
        ({"value": {"kind": "branch"}}, "write layers"),
        ({"value": {"layers": 2}}, "leave layers out"),
        ({"value": {"start": "sft"}}, "for kind: critic"),
        ({"value": {"warmup": 100}}, "would never be trained"),
        ({"value": {"kind": "branch", "layers": 1}, "adapter": {}}, "write head, or critic"),
        ({"reference": "frozen_branch", "scoring": "local"}, "set freeze_layers"),
        ({"reference": "frozen_branch", "freeze_layers": 1}, "write scoring: local"),
        (
            {"reference": "frozen_branch", "scoring": "local", "adapter": {}},
            "switched off it is the reference already",
        ),
        ({"sampling": {"sampler": "vllm", "top_p": 0.5}}, "top_p: not with sampler: vllm"),
        ({"sampling": {"sampler": "cached", "min_new_tokens": 5}}, "write sampler: loop"),
        ({"sampling": {"min_new_tokens": 65}}, "more than max_new_tokens 64"),
        ({"sampling": {"stop": [""]}}, "stop"),
        ({"ptx": {"data": {}}}, "ptx.data"),
        ({"ptx": {"data": {"nothing": {}}}}, "there is no datasets.nothing"),
    ],
)
def test_what_does_not_go_together(changes, words):
    values = copy.deepcopy(VALID)
    values["ppo"]["final"] |= changes
    with pytest.raises(ConfigError) as refused:
        load_config(values)
    assert words in str(refused.value)
    assert "ppo.final" in str(refused.value)


def test_stop_texts_go_with_every_sampler():
    for sampler in ("loop", "cached", "vllm"):
        sampling = {"sampler": sampler, "stop": ["Human:"]}
        assert PpoConfig.model_validate(RUN | {"sampling": sampling}).sampling.stop == ["Human:"]
