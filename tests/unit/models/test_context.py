"""How many tokens models take, by their configurations."""

from __future__ import annotations

import pytest
from support.architectures import GPT, SIZES

from rlhf.errors import ConfigError
from rlhf.models.context import check_length, context, context_of

THETA = {"rope_theta": 10000.0}
LONG = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


def config_of(architecture, **changes):
    from transformers import AutoConfig

    sizes = {"gpt2": GPT, "gptj": GPT | {"rotary_dim": 4}}.get(architecture, SIZES)
    return AutoConfig.for_model(architecture, **sizes | changes)


@pytest.mark.parametrize(
    ("architecture", "changes", "tokens"),
    [
        ("llama", {"max_position_embeddings": 128}, 128),
        ("gpt_neox", {"max_position_embeddings": 96}, 96),
        ("gpt2", {}, 64),
        ("gptj", {}, 64),
        ("opt", {"max_position_embeddings": 80}, 80),
        ("mpt", {"max_seq_len": 72}, 72),
        ("bloom", {}, None),
        ("mamba", {}, None),
    ],
)
def test_the_context_of_an_architecture(architecture, changes, tokens):
    assert context(config_of(architecture, **changes)).tokens == tokens


@pytest.mark.parametrize(
    ("rope", "tokens"),
    [
        ({"rope_type": "linear", "factor": 4.0}, 512),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
        # Named beside the extended context, as most do.
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}, 128),
        (
            {
                "rope_type": "llama3", "factor": 2.0, "original_max_position_embeddings": 32,
                "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            },
            128,
        ),
        ({"rope_type": "dynamic", "factor": 4.0}, 128),
        (LONG | {"rope_type": "longrope", "original_max_position_embeddings": 64}, 64),
    ],
)  # fmt: skip
def test_scaling_counts_if_it_is_the_same_for_every_row(tmp_path, rope, tokens):
    config = config_of("llama", max_position_embeddings=128, rope_parameters=rope | THETA)
    config.save_pretrained(tmp_path)
    found = context_of(tmp_path)
    assert found.tokens == tokens
    assert bool(found.why) == (rope["rope_type"] in ("dynamic", "longrope"))


def test_longer_rows_are_refused_with_their_keys():
    found = context(config_of("gpt2"))
    check_length(found, 64, "tokenization.conversation.max_length", "models.tiny")
    with pytest.raises(ConfigError) as caught:
        check_length(found, 65, "tokenization.prompt.max_length+ppo.a.x", "models.tiny")
    assert "65 tokens; models.tiny takes at most 64." in str(caught.value)
    assert "where:    tokenization.prompt.max_length+ppo.a.x" in str(caught.value)
    assert "64 or fewer in all" in str(caught.value)


def test_dynamic_positions_depend_on_the_longest_row_of_a_batch():
    """Why rows beyond are refused: the same row, alone and beside a longer one."""
    import torch
    from support.tiny_models import token_scorer, token_sequences

    rope = {"rope_type": "dynamic", "factor": 4.0} | THETA
    model = token_scorer(max_position_embeddings=16, rope_parameters=rope)
    row, longer = token_sequences([16, 40])
    with torch.no_grad():
        alone = model.hidden_states([row])[0]
        within = model.hidden_states([row, longer[:16]])[0]
        beside = model.hidden_states([row, longer])[0, :16]
    torch.testing.assert_close(alone, within, atol=1e-5, rtol=1e-5)
    assert (alone - beside).abs().max() > 0.01
    with pytest.raises(ConfigError, match="rope_type dynamic"):
        check_length(
            context(model.model.config), 40, "tokenization.conversation.max_length", "models.tiny"
        )
