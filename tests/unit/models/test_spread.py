"""Models over several GPUs: the map, and a real dispatch over memory and a disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.architectures import SIZES
from support.tiny_models import causal_lm, reward_model, token_sequences
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf.core.seeds import generator
from rlhf.models.generate import generate, uniforms
from rlhf.models.load import load_token_scorer
from rlhf.models.reward import load_reply_scorer
from rlhf.models.roots import from_starts
from rlhf.models.scoring import score
from rlhf.models.spread import TooLargeError, device_map, share_out

MODELS = {
    "llama": {"tie_word_embeddings": True},
    "gpt_neox": {"tie_word_embeddings": False},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 16},
    "bloom": {},
}


@pytest.mark.parametrize(
    ("other", "layers", "rooms", "expected"),
    [
        (3, [1, 1, 1, 1], [7, 7], [0, 0, 0, 0]),  # the first has room for all
        (3, [1, 1, 1, 1], [6, 6], [0, 1, 1, 1]),
        (2, [2, 2, 2, 2], [6, 6], [0, 0, 1, 1]),
        (0, [1] * 6, [2, 2, 2], [0, 0, 1, 1, 2, 2]),
        (1, [1] * 6, [2, 8], [1] * 6),  # shares of unequal rooms
        (3, [1], [3, 1], [1]),
        (3, [1], [2, 8], None),  # the first has what stands outside of the layers
        (0, [2, 2, 2], [3, 3], None),
    ],
)
def test_layers_are_shared_out_in_order(other, layers, rooms, expected):
    assert share_out(other, layers, rooms) == expected


@pytest.mark.parametrize("loader", [AutoModelForCausalLM, AutoModelForSequenceClassification])
@pytest.mark.parametrize("architecture", MODELS)
def test_every_tensor_has_its_place_and_layers_are_whole(architecture, loader, tmp_path):
    sizes = SIZES | MODELS[architecture] | {"num_hidden_layers": 4, "num_labels": 1}
    AutoConfig.for_model(architecture, **sizes).save_pretrained(tmp_path)  # there are no weights
    whole = device_map(loader, tmp_path, torch.bfloat16, [1e9, 1e9])
    assert whole == {"": 0}
    with torch.device("meta"):
        model = loader.from_config(AutoConfig.from_pretrained(tmp_path), dtype=torch.bfloat16)
    total = sum(p.nbytes for p in model.parameters())
    places = device_map(loader, tmp_path, torch.bfloat16, [0.7 * total] * 3)
    loads, seen = [0, 0, 0], set()
    for name, tensor in model.named_parameters():
        (gpu,) = (gpu for part, gpu in places.items() if f"{name}.".startswith(f"{part}."))
        loads[gpu] += tensor.nbytes
        if ".layers." in name or ".h." in name:
            block = next(part for part in places if name.startswith(f"{part}."))
            assert block.rpartition(".")[2].isdigit(), "a layer is never cut"
            seen.add(block)
        else:
            assert gpu == 0, name
    assert len(seen) == 4
    assert 0 < max(loads) <= 0.7 * total
    assert loads[1]
    with pytest.raises(TooLargeError, match=r"in bfloat16, and there is room for .* GB"):
        device_map(loader, tmp_path, torch.bfloat16, [0.1 * total] * 2)


def over_memory_and_disk(loader: type, folder: Path) -> dict[str, str]:
    """The map for two GPUs of half the model each; a disk stands in for the second."""
    total = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    places = device_map(loader, folder, torch.float32, [0.75 * total] * 2)
    assert set(places.values()) == {0, 1}
    return {name: ("cpu", "disk")[gpu] for name, gpu in places.items()}


def test_what_is_spread_computes_what_the_whole_model_does(tmp_path):
    """accelerate takes what passes through from place to place, also keys and values."""
    whole = causal_lm(0, num_hidden_layers=4)
    whole.save_pretrained(tmp_path)
    places = over_memory_and_disk(AutoModelForCausalLM, tmp_path)
    plain, spread = (load_token_scorer(tmp_path, torch.float32, m).eval() for m in (None, places))
    away = [name for name, tensor in spread.model.named_parameters() if tensor.is_meta]
    assert away
    assert all(".layers." in name for name in away)
    assert spread.device == plain.device
    rows = token_sequences([9, 4, 12, 7], seed=1)
    at = from_starts(rows, [2] * 4)
    with torch.no_grad():
        for mine, its in zip(spread(rows, at), plain(rows, at), strict=True):
            torch.testing.assert_close(mine, its, atol=0, rtol=0)
    draws = uniforms(generator(0, "test"), len(rows), 5)
    sampled = [generate(model, rows, draws, eos_id=7) for model in (spread, plain)]
    for mine, its in zip(*sampled, strict=True):
        assert torch.equal(mine.ids, its.ids)
        assert mine.logprob == its.logprob


def test_a_reward_model_is_spread_too(tmp_path):
    reward_model(0, num_hidden_layers=4).save_pretrained(tmp_path)
    places = over_memory_and_disk(AutoModelForSequenceClassification, tmp_path)
    plain, spread = (load_reply_scorer(tmp_path, torch.float32, m).eval() for m in (None, places))
    rows = token_sequences([9, 4, 12, 7], seed=1)
    with torch.no_grad():
        assert torch.equal(score(spread, rows), score(plain, rows))
