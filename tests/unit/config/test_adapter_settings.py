from __future__ import annotations

import pytest
from support.valid_config import put

from rlhf.config.load import load_config
from rlhf.errors import ConfigError

PREFIX = {"kind": "prefix", "publish": "adapter"}
QUANTIZED = {"quantize": "nf4", "publish": "adapter"}


@pytest.mark.parametrize("run", ["sft.chat", "reward.helpful", "ppo.final"])
def test_there_is_none_unless_it_is_asked_for(valid, run):
    section, name = run.split(".")
    assert getattr(load_config(valid, "mine.yaml"), section)[name].adapter is None
    config = load_config(put(valid, f"{run}.adapter", {}), "mine.yaml")
    assert getattr(config, section)[name].adapter.target_modules == "all-linear"


@pytest.mark.parametrize(("changes", "expected"), [
    ({"sft.chat.adapter": {}, "sft.chat.freeze_layers": 2}, "freeze_layers 2 does not go with"),
    ({"ppo.final.adapter": {}, "ppo.final.freeze_layers": 1}, "freeze_layers 1 does not go with"),
    ({"ppo.final.adapter.dropout": 0.1}, "adapter.dropout 0.1: dropout would change"),
    ({"sft.chat.adapter.target_modules": []}, "name a layer, or write all-linear"),
    ({"sft.chat.adapter.target_modules": "q_proj"}, "write a list of names, such as [q_proj],"),
    ({"sft.chat.adapter.rank": 0}, "sft.chat.adapter.rank"),
    ({"sft.chat.adapter.kind": "prefix"}, "publish: model: weights can't hold a prefix"),
    ({"sft.chat.adapter": {"kind": "prefix", "publish": "adapter", "rank": 4}},
     "rank: not with kind: prefix"),
    ({"sft.chat.adapter.virtual_tokens": 4}, "virtual_tokens: not with kind: lora"),
    ({"sft.chat.adapter": PREFIX}, "reward.helpful: starts from sft.chat, which is a prefix"),
    ({"sft.chat.adapter": PREFIX, "reward.helpful.adapter": PREFIX | {"virtual_tokens": 5},
      "ppo.final.adapter": PREFIX}, "virtual_tokens: 30, publish: adapter}`, and goes on"),
    ({"reward.helpful.adapter": PREFIX}, "ppo.final.scoring: model servers know no prefix"),
    ({"reward.helpful.adapter": PREFIX, "ppo.final.scoring": "local",
      "ppo.final.value.kind": "critic"}, "ppo.final.value.kind: a critic starts from"),
    ({"sft.chat.adapter.quantize": "nf4"}, "publish: model: with quantize no whole weights"),
    ({"sft.chat.adapter": QUANTIZED | {"dora": True}}, "DoRA needs the norms of whole weights"),
    ({"sft.chat.adapter": PREFIX | {"quantize": "nf4"}}, "quantize: not with kind: prefix"),
    ({"sft.chat.adapter": QUANTIZED}, "sft.chat.adapter.quantize: needs a GPU, and train_sft has"),
    ({"sft.chat.adapter": QUANTIZED, "cluster": {"gpus_per_node": 4, "engine": "fsdp"}},
     "engine fsdp, offload none would cut or move weights of 4 bits"),
    ({"sft.chat.adapter": QUANTIZED, "cluster": {"gpus_per_node": 4, "offload": "all"}},
     "engine auto, offload all would cut"),
    ({"reward.helpful.adapter": PREFIX, "ppo.final.scoring": "local",
      "cluster": {"activation_checkpointing": True}}, "activations after a prefix can't be"),
    ({"sft.chat.adapter.ranks": 4}, "sft.chat.adapter.ranks: unknown key; did you mean 'rank'?"),
])  # fmt: skip
def test_what_can_not_be_is_refused(valid, changes, expected):
    for path, value in changes.items():
        put(valid, path, value)
    with pytest.raises(ConfigError) as refused:
        load_config(valid, "mine.yaml")
    assert expected in str(refused.value)


def test_a_chain_of_prefixes_is_taken(valid):
    for run in ("sft.chat", "reward.helpful", "ppo.final"):
        put(valid, f"{run}.adapter", PREFIX)
    put(valid, "ppo.final.scoring", "local")
    put(valid, "ppo.final.value.kind", "critic")
    config = load_config(valid, "mine.yaml")
    assert config.ppo["final"].adapter.virtual_tokens == 30


def test_offline_runs_may_drop_inputs(valid):
    config = load_config(put(valid, "sft.chat.adapter.dropout", 0.1), "mine.yaml")
    assert config.sft["chat"].adapter.dropout == 0.1
