"""What stages say of a model that later ones can't use, before any training."""

from __future__ import annotations

import json

import pytest
import torch

from rlhf.config.evaluation import EvaluationConfig
from rlhf.config.ppo import PpoConfig
from rlhf.config.sft import SftConfig
from rlhf.errors import ConfigError
from rlhf.provenance.facts import CANNOT
from rlhf.provenance.manifest import Manifest, read_manifest
from rlhf.stages import evaluate, fetch_model, train_ppo, train_sft
from rlhf.stages.stage import parse

LONG = "tokenization.prompt.max_length+ppo.final.sampling.max_new_tokens"


@pytest.fixture
def source(tiny, tmp_path):
    """Makes a folder with the tiny model's tokenizer, and a model of any architecture."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    def make(architecture, **sizes):
        torch.manual_seed(0)
        sizes = {"vocab_size": 300, "pad_token_id": 0, "eos_token_id": 2} | sizes
        config = AutoConfig.for_model(architecture, **sizes)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "source")
        AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "source")
        return {"path": str(tmp_path / "source")}

    return make


def fetch(source, folder, *needs):
    line = ["--name", "base", "--config", json.dumps({"source": source}), *needs]
    line += ["--output", "model", str(folder / "model")]
    fetch_model.run(parse([*line, "--output", "manifest", str(folder / "manifest.json")])[0])
    return read_manifest(folder)["facts"]


MAMBA = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}


def test_a_model_that_only_sft_can_use_is_fetched_for_sft(source, tmp_path):
    rows = ["--rows", "tokenization.conversation.max_length=4096"]
    facts = fetch(source("mamba", **MAMBA), tmp_path / "models/base", *rows)
    assert facts["context_length"] is None
    assert facts[CANNOT].keys() == {"sampling", "scores"}


@pytest.mark.parametrize(
    ("need", "said"),
    [
        ("sampling=ppo.final", r"MambaForCausalLM \(mamba\) keeps more of a prompt"),
        ("scores=reward.helpful", "no class for sequence classification with mamba"),
    ],
)
def test_it_is_refused_where_later_runs_need_more(
    source, tmp_path, leave_no_trace, no_launcher, need, said
):
    folder = tmp_path / "models/base"
    with pytest.raises(ConfigError, match=said) as caught:
        fetch(source("mamba", **MAMBA), folder, "--runs", need)
    assert f"where:    {need.partition('=')[2]}" in str(caught.value)
    assert not (folder / "manifest.json").exists()
    fetch({"path": str(tmp_path / "source")}, folder)  # for SFT alone; PPO is thought of later
    line = ["--name", "chat", "--input", "start", str(folder / "manifest.json"), "--runs", need]
    line += ["--config", SftConfig(model="base", data={"demo": {}}).model_dump_json()]
    line += ["--output", "manifest", str(tmp_path / "manifest.json")]
    stage = parse([*line, "--input", "data", str(folder / "manifest.json")])[0]
    with pytest.raises(ConfigError, match=said):
        train_sft.run(stage)


@pytest.mark.parametrize(("architecture", "sizes"), [("gpt2", GPT2), ("llama", {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64,
})])  # fmt: skip
def test_rows_beyond_the_context_are_refused(source, tmp_path, architecture, sizes):
    given = source(architecture, **sizes)
    facts = fetch(given, tmp_path / "fits/base", "--rows", f"{LONG}=64")
    assert facts["context_length"] == 64
    assert CANNOT not in facts
    with pytest.raises(ConfigError, match=r"65 tokens; models\.base takes at most 64") as caught:
        fetch(given, tmp_path / "models/base", "--rows", f"{LONG}=65")
    assert f"where:    {LONG}" in str(caught.value)


def test_a_model_that_looks_ahead_is_refused(source, tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    with pytest.raises(ConfigError, match=r"\(bert\)") as caught:
        fetch(source("bert", intermediate_size=32, **sizes), tmp_path / "models/base")
    assert "where:    models.base" in str(caught.value)


@pytest.fixture
def artifact(tmp_path):
    """Makes a manifest that other stages take for a model's or a tokenized set's."""
    from transformers import GPT2Config

    def make(place, config, context=64):
        folder = tmp_path / "results" / place
        GPT2Config(**GPT2 | {"n_positions": context}).save_pretrained(folder / "model")
        facts = {"tokenizer_digest": "a", "template_digest": "b"}
        Manifest("x", folder.name, config, "", "", {}, facts=facts).write(folder, [], 0.0)
        return str(folder / "manifest.json")

    return make


SAMPLING = {"sampling": {"max_new_tokens": 21}, "rollout_batch_size": 1, "minibatch_size": 1}


@pytest.mark.parametrize("short", ["sft/chat", "reward/helpful"])
@pytest.mark.parametrize("module", [train_ppo, evaluate])
def test_prompt_and_response_are_to_fit_into_every_model(
    artifact, tmp_path, leave_no_trace, no_launcher, module, short
):
    section, config = {
        train_ppo: ("ppo", PpoConfig(sft="chat", reward="helpful", data={"demo": {}}, **SAMPLING)),
        evaluate: ("evaluation", EvaluationConfig(ppo="run", max_new_tokens=21)),
    }[module]
    line = ["--name", "final", "--config", config.model_dump_json()]
    places = {
        "base": "models/base",
        "sft": "sft/chat",
        "ppo": "ppo/run",
        "reward": "reward/helpful",
    }
    for role, place in places.items():
        context = 60 if place == short else 64
        line += ["--input", role, f"{artifact(place, {}, context)}"]
    prompts = artifact("tokenized/demo", {"view": "prompt", "max_length": 40})
    line += ["--input", "data", str(prompts)]
    line += ["--output", "manifest", str(tmp_path / "manifest.json")]
    stage = parse(line)[0]
    stage.stage = module.__name__.rpartition(".")[2]
    with pytest.raises(ConfigError) as caught:
        module.run(stage)
    named = short.replace("/", ".")
    assert f"Rows may have 61 tokens; {named} takes at most 60." in str(caught.value)
    key = "sampling.max_new_tokens" if section == "ppo" else "max_new_tokens"
    assert f"where:    tokenization.prompt.max_length+{section}.final.{key}" in str(caught.value)
