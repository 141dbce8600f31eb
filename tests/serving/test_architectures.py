"""Stores of models with attention windows, and of those whose logits are more than a matrix."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf.core.files import read_json, write_json
from rlhf.errors import IntegrityError
from rlhf.provenance.manifest import Manifest
from rlhf.serving.parity import check_parity
from rlhf.serving.store import export_store, model_identity

WINDOW = 8
SIZES = {
    "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 2,
    "eos_token_id": 2, "max_position_embeddings": 160, "initializer_range": 0.3,
}  # fmt: skip
WINDOWED = {
    "mistral": SIZES | {"sliding_window": WINDOW},
    "qwen2": SIZES | {"sliding_window": WINDOW, "use_sliding_window": True, "max_window_layers": 1},
}
OWN = {
    "cohere": SIZES | {"logit_scale": 0.25},
    "gemma2": SIZES | {"final_logit_softcapping": 2.0, "sliding_window": WINDOW},
    "modernbert-decoder": SIZES,
}


def make_store(folder, kind, architecture, sizes):
    """The artifact's folder and its store, ``store``."""
    torch.manual_seed(3)
    loader = AutoModelForSequenceClassification if kind == "reward" else AutoModelForCausalLM
    config = AutoConfig.for_model(architecture, **sizes, num_labels=1)
    loader.from_config(config).save_pretrained(folder / "model")
    if kind == "reward":
        write_json(folder / "model" / "calibration.json", {"mean": 0.0, "std": 1.0})
    facts = {"tokenizer_digest": "a" * 64, "template_digest": "b" * 64}
    Manifest(kind, folder.name, {}, "", "", {}, facts=facts).write(folder, [folder / "model"], 0.0)
    export_store(kind, folder / "model", folder / "store", model_identity(kind, folder))
    return folder


def checked(folder, kind, **options):
    return check_parity(
        kind, folder / "model", folder / "store", folder / "log", 1, tolerance=1e-4, **options
    )


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [
        ("reward", "mistral"),
        pytest.param("reference", "mistral", marks=pytest.mark.slow),
        pytest.param("reward", "qwen2", marks=pytest.mark.slow),
    ],
)
def test_rows_that_begin_alike_stay_in_their_windows(tmp_path, kind, architecture):
    """Behind a window a token does not see the prompt that its row shares with others."""
    folder = make_store(tmp_path, kind, architecture, WINDOWED[architecture])
    cases = {case["case"]: case for case in checked(folder, kind)["cases"]}
    assert cases["4 responses to one prompt"]["difference"] in ("at most 1e-06", "at most 1e-05")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", OWN)
def test_a_reference_answers_with_the_models_own_logits(tmp_path, architecture):
    folder = make_store(tmp_path, "reference", architecture, OWN[architecture])
    assert checked(folder, "reference")["passed"]


@pytest.mark.slow
def test_a_row_longer_than_the_window_is_compared(tmp_path):
    sizes = SIZES | {"sliding_window": 64}
    folder = make_store(tmp_path, "reference", "mistral", sizes)
    cases = {case["case"] for case in checked(folder, "reference", longest=40)["cases"]}
    assert "length 74, longer than the window" in cases
    model = folder / "store" / "reference" / "1" / "hf" / "config.json"
    write_json(model, read_json(model) | {"sliding_window": 48})  # served as another model
    with pytest.raises(IntegrityError, match="length 74, longer than the window: at most"):
        checked(folder, "reference", longest=40)


def test_a_store_takes_rows_as_long_as_the_models_scaled_context(tmp_path):
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    folder = make_store(tmp_path, "reward", "llama", SIZES | {"rope_parameters": rope})
    assert (
        'key: "longest" value: { string_value: "320" }'
        in (folder / "store" / "reward" / "config.pbtxt").read_text()
    )
    names = {case["case"] for case in checked(folder, "reward", longest=400)["cases"]}
    assert "length 320, padding none" in names
