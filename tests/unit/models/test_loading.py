from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tiny_models import causal_lm, reply_scorer, token_scorer

from rlhf.errors import ConfigError
from rlhf.models.backbone import Backbone
from rlhf.models.layers import decoder_layers
from rlhf.models.load import load_token_scorer
from rlhf.models.roots import TokenScorer


def anonymous_bytes() -> int:
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in x)
    return 1024 * int(line.split()[1])


def test_weights_as_they_lie_are_mapped_and_not_held(tmp_path):
    """So ranks of a node share them, and each cuts its slices out layer by layer."""
    sizes = {"vocabulary": 4000, "hidden_size": 512, "intermediate_size": 2048}
    causal_lm(0, **sizes).to(torch.bfloat16).save_pretrained(tmp_path)
    size = (tmp_path / "model.safetensors").stat().st_size
    load_token_scorer(tmp_path, "auto")  # what is imported at first use is held
    before = anonymous_bytes()
    mapped = load_token_scorer(tmp_path, "auto")
    assert mapped.model.dtype == torch.bfloat16
    assert anonymous_bytes() - before < size / 4
    before = anonymous_bytes()
    wide = load_token_scorer(tmp_path)
    assert wide.model.dtype == torch.float32
    assert anonymous_bytes() - before > 1.5 * size


@pytest.mark.parametrize("make", [token_scorer, reply_scorer])
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_the_lower_layers_stay(make, layers):
    model = make(0)
    model.freeze(layers)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    expected = [f"model.model.layers.{i}." for i in range(layers)] + ["model.model.embed"] * (
        layers > 0
    )
    assert frozen == {
        name for name, _ in model.named_parameters() if name.startswith(tuple(expected))
    }
    assert len(decoder_layers(model.model)) == 2


@pytest.mark.parametrize(
    ("architecture", "sizes", "embeddings", "trained"),
    [
        (
            "opt",  # as OPT 350M: narrow embeddings, norms after the layers
            {"word_embed_proj_dim": 8, "do_layer_norm_before": False, "ffn_dim": 16},
            {"decoder.embed_tokens", "decoder.embed_positions", "decoder.project_in"},
            {"decoder.project_out"},
        ),
        ("bloom", {}, {"word_embeddings", "word_embeddings_layernorm"}, {"ln_f"}),
    ],
)
def test_all_that_makes_a_layers_input_stays(architecture, sizes, embeddings, trained):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4} | sizes
    config = AutoConfig.for_model(architecture, vocab_size=50, **sizes)
    model = AutoModelForCausalLM.from_config(config)
    Backbone(model).freeze(1)
    moves = {name: p.requires_grad for name, p in model.base_model.named_parameters()}
    outside = {name.rpartition(".")[0]: moves[name] for name in moves if ".0." not in name}
    assert {name for name, one in outside.items() if not one} == embeddings
    assert trained <= {name for name, one in outside.items() if one}


def test_the_last_hidden_states_may_be_narrower_than_the_layers():
    from transformers import OPTConfig, OPTForCausalLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "ffn_dim": 16}
    model = OPTForCausalLM(OPTConfig(vocab_size=50, word_embed_proj_dim=8, **sizes))
    hidden = model.base_model(input_ids=torch.tensor([[5, 6]])).last_hidden_state
    assert hidden.shape[-1] == TokenScorer(model).width == 8
    assert token_scorer(0).width == 32


def test_too_many_layers_are_an_error():
    with pytest.raises(ConfigError, match="has 2 layers"):
        token_scorer(0).freeze(3)
