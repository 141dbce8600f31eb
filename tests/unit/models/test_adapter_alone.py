"""Models that are published as an adapter alone: loaded and written they are as if merged."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapted import NoTokenizer, moved
from support.architectures import PLAIN
from support.tiny_models import token_sequences as tokens
from support.tiny_settings import lora

from rlhf.commands.verify import add_arguments, run
from rlhf.core.files import read_json, write_json
from rlhf.errors import IntegrityError
from rlhf.models.adapters import add_adapter
from rlhf.models.load import disable_dropout, load_token_scorer
from rlhf.models.publish import save_model
from rlhf.models.reward import load_reply_scorer, new_reply_scorer
from rlhf.models.roots import ReplyScorer, TokenScorer
from rlhf.provenance.bases import bases, describe_base
from rlhf.provenance.manifest import Manifest
from rlhf.serving.store import export_store, tree_identity

SEQUENCES = tokens([9, 6], seed=1)
KINDS = {
    "lora": ("llama", {"rank_stabilized": True}),
    "dora": ("llama", {"dora": True, "target_modules": ["q_proj", "1.mlp.down_proj"]}),
    "ranks": ("llama", {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 1.0}}),
    "head": ("gpt_neox", {"modules_to_save": ["embed_out"]}),
    "conv": ("gpt2", {"dora": True}),
}  # fmt: skip


def model_of(architecture: str, **sizes: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **PLAIN[architecture] | sizes)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    disable_dropout(model)
    return model


def publish(root: TokenScorer | ReplyScorer, start: Path, folder: Path, seed: int = 0,
            **settings: Any) -> tuple[Path, Path]:  # fmt: skip
    """Train an adapter for a model; publish it merged, and alone beside its start."""
    add_adapter(root.model, lora(**settings), seed, "x")
    moved(root.model, seed)
    root.float()
    found = folder / "whole/model", folder / "alone/model"
    for place, base in zip(found, (None, describe_base(start, found[1])), strict=True):
        place.mkdir(parents=True)
        weights = root.model.state_dict().items()
        tied = {"lm_head.weight"} if root.model.config.tie_word_embeddings else set()
        plain = ((name, tensor) for name, tensor in weights if name not in tied)
        save_model(root, plain, NoTokenizer(), place, base=base)
    return found


@pytest.fixture
def start(tmp_path: Path) -> Path:
    folder = tmp_path / "models/base/model"
    model_of("llama").save_pretrained(folder)
    return folder


def logprobs(folder: Path, **how: Any) -> torch.Tensor:
    with torch.no_grad():
        places = [torch.arange(1, len(ids)) for ids in SEQUENCES]
        return load_token_scorer(folder, **how)(SEQUENCES, places)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_merged_model_to_the_byte(kind: str, tmp_path: Path) -> None:
    architecture, settings = KINDS[kind]
    start = tmp_path / "models/base/model"
    model_of(architecture).save_pretrained(start)
    root = load_token_scorer(start, dtype="auto")
    if settings.get("modules_to_save"):
        names = [
            n for n, m in root.model.named_modules() if m is root.model.get_output_embeddings()
        ]
        settings = {"modules_to_save": names}
    whole, alone = publish(root, start, tmp_path, **settings)
    assert not list(alone.glob("*.safetensors"))
    assert torch.equal(logprobs(alone), logprobs(whole))
    assert torch.equal(logprobs(alone, dtype="auto"), logprobs(whole))
    assert torch.equal(logprobs(alone, device_map={"": "cpu"}), logprobs(whole))
    assert (logprobs(alone) - logprobs(start)).abs().max() > 1e-2
    for place, name in ((whole, "a"), (alone, "b")):
        identity = {"weights": tree_identity(place), "tokenizer": "", "template": ""}
        export_store("reference", place, tmp_path / name, identity)
    written = [tmp_path / f"{name}/reference/1/hf/model.safetensors" for name in "ab"]
    assert written[0].read_bytes() == written[1].read_bytes()


def test_what_starts_from_it_stands_on_both(start: Path, tmp_path: Path) -> None:
    _, first = publish(load_token_scorer(start), start, tmp_path / "sft")
    whole, second = publish(load_token_scorer(first), first, tmp_path / "dpo", seed=1)
    assert [path.resolve() for path in bases(second)] == [first.resolve(), start.resolve()]
    assert torch.equal(logprobs(second), logprobs(whole))
    named = read_json(second / "adapter/adapter_config.json")["base_model_name_or_path"]
    assert named == str(first)


@pytest.mark.parametrize("settings", [{}, {"modules_to_save": ["lm_head"]}])
def test_a_reward_model_may_start_from_it_and_be_one(
    start: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    whole, alone = publish(load_token_scorer(start), start, tmp_path / "sft", **settings)
    roots = [new_reply_scorer(each, seed=5) for each in (whole, alone)]
    states = [root.model.state_dict() for root in roots]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    merged, adapter = publish(roots[1], alone, tmp_path / "reward", seed=2)
    histories, replies = [ids[:0] for ids in SEQUENCES], [[ids] for ids in SEQUENCES]
    with torch.no_grad():
        (first,), (second,) = (load_reply_scorer(f)(histories, replies) for f in (merged, adapter))
    assert torch.equal(first, second)
    assert len({tree_identity(each) for each in (merged, adapter, alone, start)}) == 4


def test_its_store_is_another_when_its_base_is(start: Path, tmp_path: Path) -> None:
    _, alone = publish(load_token_scorer(start), start, tmp_path)
    before = tree_identity(alone)
    changed(start)
    write_json(alone / "adapter/base.json", describe_base(start, alone))
    assert tree_identity(alone) != before


def changed(start: Path) -> None:
    tensors = load_file(start / "model.safetensors")
    save_file({n: t + 1 for n, t in tensors.items()}, start / "model.safetensors", {"format": "pt"})


def refused(folder: Path, message: str) -> None:
    with pytest.raises(IntegrityError, match=message) as error:
        load_token_scorer(folder)
    assert "run snakemake" in error.value.hint


@pytest.mark.parametrize("listed", [True, False])
def test_another_base_is_refused(start: Path, tmp_path: Path, listed: bool) -> None:
    _, alone = publish(load_token_scorer(start), start, tmp_path)
    changed(start)
    if listed:
        Manifest("fetch_model", "base", {}, "", "", {}).write(start.parent, [start], 0.0)
    refused(alone, "trained beside other weights than its base has now")
    start.rename(start.with_name("elsewhere"))
    refused(alone, "the model that it belongs to is not there")


def test_an_adapter_that_does_not_fit_its_base_is_refused(start: Path, tmp_path: Path) -> None:
    _, alone = publish(load_token_scorer(start), start, tmp_path)
    model_of("llama", intermediate_size=16).save_pretrained(start)
    write_json(alone / "adapter/base.json", describe_base(start, alone))
    config = read_json(alone / "config.json")
    write_json(alone / "config.json", config | {"intermediate_size": 16})
    refused(alone, r"its model\.layers\.0\.mlp\.\w+ is \[\d+, \d+\], not")
    _, alone = publish(new_reply_scorer(start, seed=5), start, tmp_path / "other")
    refused(alone, "it has no ")


def test_verify_looks_for_its_base(start: Path, tmp_path: Path, capsys: Any) -> None:
    _, alone = publish(load_token_scorer(start), start, tmp_path)
    Manifest("train_sft", "alone", {}, "", "", {}).write(alone.parent, [alone], 0.0)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args([str(alone.parent)])
    assert run(args) == 0
    start.rename(start.with_name("elsewhere"))
    assert run(args) == 1
    assert "is not there" in capsys.readouterr().out
