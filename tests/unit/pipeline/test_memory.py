"""The formulas against real models: their parameters, what torch keeps of them, a real process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.projects import REPOSITORY
from torch.autograd.graph import saved_tensors_hooks

from rlhf.models.ilql import ValueHeads
from rlhf.models.load import disable_dropout
from rlhf.models.roots import TokenScorer
from rlhf.pipeline.memory import (
    Model,
    Pass,
    Setting,
    copies_bytes,
    layer_bytes,
    state_bytes,
    training_bytes,
)
from rlhf.pipeline.shapes import KNOWN, model_shape, read_shape, shape_of, shape_of_size
from rlhf.runtime.options import EngineKind

H = 64
SIZES: dict[str, Any] = {
    "hidden_size": H, "intermediate_size": 4 * H, "num_attention_heads": 4, "vocab_size": 96,
    "num_key_value_heads": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT: dict[str, Any] = {"n_embd": H, "n_head": 4, "vocab_size": 96, "bos_token_id": 1,
                       "eos_token_id": 2}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SIZES | {"num_key_value_heads": 2, "intermediate_size": 160},
    "mistral": SIZES | {"num_key_value_heads": 2, "sliding_window": None},
    "qwen2": SIZES | {"tie_word_embeddings": True},
    "qwen3": SIZES | {"head_dim": 16, "num_key_value_heads": 2},
    "olmo2": SIZES,
    "gpt_neox": SIZES,
    "opt": SIZES | {"ffn_dim": 4 * H, "word_embed_proj_dim": H, "max_position_embeddings": 80},
    "gptj": GPT | {"rotary_dim": 16},
    "bloom": GPT,
    "gpt2": GPT,
}


def model_of(family: str, layers: int = 2, **changes: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    name = "n_layer" if "n_embd" in FAMILIES[family] else "num_hidden_layers"
    config = AutoConfig.for_model(family, **FAMILIES[family] | {name: layers} | changes)
    model = AutoModelForCausalLM.from_config(config)
    disable_dropout(model)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_counted_from_the_configuration_and_from_the_files(
    family: str, tmp_path: Path
) -> None:
    model = model_of(family)
    count = sum(p.numel() for p in model.parameters())
    shape = shape_of(model.config.to_dict(), "")
    assert shape.parameters == count
    model.save_pretrained(tmp_path)
    assert read_shape(tmp_path).parameters == count
    assert read_shape(tmp_path).layer_parameters == shape.layer_parameters


@pytest.mark.parametrize(
    "changes",
    [
        {"enable_bias": False, "layer_norm_elementwise_affine": False},
        {"word_embed_proj_dim": 32, "do_layer_norm_before": False},
    ],
)
def test_relatives_of_opt(changes: dict[str, Any]) -> None:
    model = model_of("opt", **changes)
    count = sum(p.numel() for p in model.parameters())
    assert shape_of(model.config.to_dict(), "").parameters == count


@pytest.mark.parametrize(
    ("name", "billions"),
    [("opt-350m", 0.331), ("pythia-6.9b", 6.86), ("llama-3.1-8b", 8.03), ("smollm2-360m", 0.362),
     ("gpt-neox-20b", 20.6), ("bloom-1b1", 1.065), ("olmo-2-0425-1b", 1.485), ("gpt-j-6b", 6.05)],
)  # fmt: skip
def test_published_models_have_their_published_sizes(name: str, billions: float) -> None:
    assert shape_of(KNOWN[name], "").parameters / 1e9 == pytest.approx(billions, rel=0.01)


def kept(family: str, layers: int, precision: str, tokens: int, eager: bool = False) -> int:
    """Bytes that the graph keeps of a row, but for weights and their narrow copies."""
    model = model_of(family, layers)
    root = TokenScorer(model)
    root.compute_in(precision)
    if eager:
        root.attend("eager")
    sizes = {p.numel() for p in model.parameters()}
    found: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.nbytes() // tensor.element_size() not in sizes:
            found[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        root.hidden_states([torch.arange(tokens) % 90])
    return sum(found.values())


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize("family", FAMILIES)
def test_activations_are_those_that_the_graph_keeps(family: str, precision: str) -> None:
    tokens = 75  # no tensor of theirs has as many numbers as a parameter
    counted = kept(family, 3, precision, tokens) - kept(family, 2, precision, tokens)
    shape = shape_of(model_of(family).config.to_dict(), "")
    planned = layer_bytes(shape, Pass(tokens, tokens, precision == "bfloat16"))
    assert planned == pytest.approx(counted, rel=0.04)


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_plain_attention_keeps_scores_too(precision: str) -> None:
    tokens, narrow = 75, precision == "bfloat16"
    counted = kept("llama", 3, precision, tokens, True) - kept("llama", 2, precision, tokens, True)
    shape = shape_of(model_of("llama").config.to_dict(), "")
    planned = layer_bytes(shape, Pass(tokens, tokens, narrow, eager=True))
    assert planned == pytest.approx(counted, rel=0.05)


def test_sharding_divides_what_the_paper_says() -> None:
    model = Model(shape_of_size(7.5))
    kinds: tuple[EngineKind, ...] = ("replicated", "fsdp", "zero1", "zero2", "zero3")
    gb = {
        kind: [sum(state_bytes([model], Setting(kind, ranks)).values()) / 1e9 for ranks in (1, 64)]
        for kind in kinds
    }
    assert gb["replicated"] == pytest.approx([120, 120], rel=1e-3)  # 16 bytes
    assert gb["fsdp"] == pytest.approx([120, 120 / 64], rel=1e-3)
    assert gb["zero1"] == pytest.approx([150, 60 + 90 / 64], rel=1e-3)  # 8, and 12 shared out
    assert gb["zero2"] == pytest.approx([150, 30 + 120 / 64], rel=1e-3)
    assert gb["zero3"] == pytest.approx([150, 150 / 64], rel=1e-3)


def test_frozen_matrices_take_two_bytes() -> None:
    shape = shape_of_size(8)
    wide, narrow = Model(shape, frozen_layers=10), Model(shape, frozen_layers=10, narrow=True)
    assert wide.weight_bytes == 4 * shape.parameters
    assert wide.weight_bytes - narrow.weight_bytes == 2 * 10 * shape.layer_parameters
    adapted = Model(shape, rank=8, narrow=True)
    reference = Model(shape, narrow=True, trains=False)
    matrices = shape.layers * shape.layer_parameters + shape.head_parameters
    assert adapted.weight_bytes == reference.weight_bytes == 4 * shape.parameters - 2 * matrices
    assert Model(shape, narrow=True).weight_bytes == 4 * shape.parameters
    assert reference.trained == 0
    batch = Pass(1024, 1024)
    copies = [copies_bytes([model], Setting(), batch) for model in (Model(shape, rank=8), adapted)]
    assert copies[0] - copies[1] == 2 * shape.layers * shape.layer_parameters


def test_embeddings_and_head_are_not_gathered_together() -> None:
    """By FSDP; what they are is in benchmarks/README.md."""
    batch, shapes = Pass(1024, 1024), [shape_of(FAMILIES["llama"] | tied, "") for tied in (
        {"tie_word_embeddings": True, "num_hidden_layers": 2, "model_type": "llama"},
        {"tie_word_embeddings": False, "num_hidden_layers": 2, "model_type": "llama"},
    )]  # fmt: skip
    assert shapes[1].other_parameters > 1.9 * shapes[0].other_parameters
    both = [copies_bytes([Model(shape)], Setting("fsdp", 2), batch) for shape in shapes]
    assert both[1] - both[0] == 4 * shapes[1].head_parameters  # its gradient, on its way


@pytest.mark.parametrize("two_qs", [True, False])
def test_value_heads_are_counted(two_qs: bool) -> None:
    """All are trained but the copies of Q, which are neither cast nor have moments."""
    shape = shape_of(FAMILIES["llama"] | {"num_hidden_layers": 2, "model_type": "llama"}, "")
    heads = ValueHeads(shape.hidden, shape.vocabulary, two_qs, 0)
    plain, model = Model(shape), Model(shape, q_heads=2 if two_qs else 1)
    every = sum(p.numel() for p in heads.parameters())
    trained = sum(p.numel() for p in heads.parameters() if p.requires_grad)
    assert model.parameters - plain.parameters == every
    assert model.trained - plain.trained == trained
    assert model.weight_bytes - plain.weight_bytes == 4 * every
    for changes in ({"rank": 4}, {"prefix": 3}, {"frozen_layers": 1}):
        beside, alone = Model(shape, q_heads=model.q_heads, **changes), Model(shape, **changes)
        assert beside.trained - alone.trained == trained
    batch = Pass(1024, 256)
    more, less = (training_bytes([one], Setting("fsdp", 2), batch) for one in (model, plain))
    assert more["working copies"] - less["working copies"] == 4 * every + 4 * trained
    assert more["logits"] - less["logits"] > model.q_heads * 4 * 1024 * shape.vocabulary


def test_offload_moves_it_to_the_host() -> None:
    model = Model(shape_of_size(1))
    all_ = state_bytes([model], Setting("fsdp", 4, "all"))
    assert (all_["weights"], all_["moments"]) == (0, 0)
    assert all_["host"] == pytest.approx(4e9, rel=1e-3)
    some = state_bytes([model], Setting("zero2", 4, "optimizer"))
    assert some["weights"] == pytest.approx(4e9, rel=1e-3)
    assert some["host"] == pytest.approx(4e9, rel=1e-3)


def test_checkpointing_keeps_a_layers_input_and_one_layer() -> None:
    model, batch = Model(shape_of_size(8)), Pass(8192, 4096)
    plain, again = (training_bytes([model], Setting(checkpointing=one), batch)["activations"]
                    for one in (False, True))  # fmt: skip
    layers, width = model.shape.layers, 4 * batch.tokens * model.shape.hidden
    assert plain - again == pytest.approx(
        (layers - 1) * layer_bytes(model.shape, batch) - layers * width
    )


def test_where_a_shape_comes_from(valid: dict[str, Any], tmp_path: Path) -> None:
    from rlhf.config.load import load_config

    valid["models"] = {
        "tiny": {"source": {"path": "models/opt-13b"}},
        "other": {"source": {"path": "models/mine"}},
    }
    config = load_config(valid | {"cluster": {"model_billions": 5}})
    assert model_shape(config, "tiny", tmp_path).source == "name opt-13b"
    other = model_shape(config, "other", tmp_path)
    assert other.source == "cluster.model_billions (5)"
    assert other.parameters == pytest.approx(5e9, rel=1e-6)
    model_of("opt").save_pretrained(tmp_path / "models/tiny/model")
    assert model_shape(config, "tiny", tmp_path).source == "config.json"


@pytest.mark.slow
def test_what_is_planned_is_what_two_processes_take() -> None:
    """A model of 24 million parameters, float32; figures of larger ones: benchmarks/README.md"""
    command = [sys.executable, REPOSITORY / "benchmarks/memory.py", "--size", "24m"]
    command += ["--kinds", "fsdp", "--ranks", "2", "--tokens", "256"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    cells = done.stdout.splitlines()[-1].strip("| ").split(" | ")
    assert cells[:2] == ["fsdp", "2"]
    assert float(cells[-1]) == pytest.approx(1, abs=0.25)


def test_averages_and_moments_of_8_bits_count():
    shape = shape_of(SIZES | {"model_type": "llama", "num_hidden_layers": 2}, "here")
    trained, embeddings = shape.parameters, shape.vocabulary * shape.hidden
    for changes, expected in (
        ({}, 8 * trained),
        ({"averaged": True}, 12 * trained),
        ({"narrow_moments": True}, 8 * embeddings + (2 + 2 * 4 / 256) * (trained - embeddings)),
        ({"averaged": True, "trains": False}, 0),
    ):
        model = Model(shape, **changes)
        assert state_bytes([model], Setting())["moments"] == pytest.approx(expected), changes
        if changes.get("averaged") and model.trains:
            sharded = state_bytes([model], Setting("fsdp", ranks=4))["moments"]
            assert sharded == pytest.approx(expected / 4)
