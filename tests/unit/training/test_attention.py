"""Which way a run computes attention: it is tried, and what does not work is not taken."""

from __future__ import annotations

import logging

import pytest
import torch
from support.architectures import MAMBA, PLAIN, SIZES
from support.fake_flash import fake_varlen_attn_of_a_gpu
from support.tiny_models import causal_lm, reward_model, token_scorer, token_sequences
from torch.nn.attention import varlen

from rlhf.config.training import OptimizerConfig
from rlhf.errors import ConfigError
from rlhf.models.attention_probe import is_fused, problem
from rlhf.models.roots import ActorCritic, Critic, TokenScorer
from rlhf.runtime.options import EngineOptions
from rlhf.training.attention import attention_facts, choose_attention
from rlhf.training.engine.open import open_engine

CPU = torch.device("cpu")
WINDOWED = SIZES | {"sliding_window": 4096}
MIXED = WINDOWED | {"use_sliding_window": True, "max_window_layers": 1}


def model_of(architecture: str, sizes: dict) -> TokenScorer:
    from transformers import AutoConfig, AutoModelForCausalLM

    return TokenScorer(
        AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **sizes))
    )


@pytest.fixture
def flash(monkeypatch) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", fake_varlen_attn_of_a_gpu)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt_neox", "opt", "gpt2"])
def test_families_whose_rows_can_stand_in_one_sequence(architecture, flash):
    assert problem(model_of(architecture, PLAIN[architecture]), "flash", CPU) is None


@pytest.mark.parametrize(("architecture", "sizes"), [("mistral", WINDOWED), ("qwen2", MIXED)])
def test_windows_are_tried_on_rows_that_are_longer(architecture, sizes, flash, monkeypatch):
    root = model_of(architecture, sizes)
    assert problem(root, "flash", CPU) is None

    def fake_without_windows(*args, window_size, **options):
        return fake_varlen_attn_of_a_gpu(*args, window_size=(-1, 0), **options)

    monkeypatch.setattr(varlen, "varlen_attn", fake_without_windows)
    assert "values of a small input" in str(problem(root, "flash", CPU))


@pytest.mark.parametrize(
    ("architecture", "sizes", "why"),
    [
        ("bloom", PLAIN["bloom"], "transformers' class does not have it"),
        ("mpt", PLAIN["mpt"], "transformers' class does not have it"),
        ("gemma2", SIZES, "does not support"),
        ("falcon_h1", SIZES | MAMBA, "layers of hybrid"),
        ("llama4_text", SIZES | {"layer_types": ["chunked_attention"] * 2}, "chunked_attention"),
    ],
)
def test_families_whose_rows_can_not(architecture, sizes, why, flash):
    assert why in str(problem(model_of(architecture, sizes), "flash", CPU))


def test_a_leak_between_rows_is_seen(flash, monkeypatch):
    def fake_that_leaks(query, key, value, ends, _ends, _max, _most, **options):
        whole = torch.tensor([0, len(query)], dtype=torch.int32)
        return fake_varlen_attn_of_a_gpu(
            query, key, value, whole, whole, len(query), len(query), **options
        )

    monkeypatch.setattr(varlen, "varlen_attn", fake_that_leaks)
    root = token_scorer()
    root.compute_in("bfloat16")
    assert "not those of plain attention" in str(problem(root, "flash", CPU))


def test_a_probe_leaves_no_trace():
    root, state = token_scorer(), torch.get_rng_state()
    weights = {name: value.clone() for name, value in root.state_dict().items()}
    config = root.model.config.to_dict()
    assert problem(root, "sdpa", CPU) is None
    assert is_fused(root, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert root.model.config.to_dict() == config
    assert all(torch.equal(value, weights[name]) for name, value in root.state_dict().items())


def test_cpus_keep_what_transformers_has():
    root = token_scorer()
    engine = open_engine(root, {"": 1e-3}, OptimizerConfig(), EngineOptions())
    assert root.attention is None
    assert attention_facts(root) == {}
    assert engine.device == CPU
    assert not root.packs


def test_a_named_way_is_taken(caplog):
    root = token_scorer()
    with caplog.at_level(logging.INFO):
        open_engine(root, {"": 1e-3}, OptimizerConfig(), EngineOptions(attention="eager"))
    assert root.model.config._attn_implementation == "eager"
    assert attention_facts(root) == {"attention": "eager"}
    assert "LlamaForCausalLM: attention is eager, rows padded" in caplog.text


@pytest.mark.parametrize("way", ["flash", "flex"])
def test_a_named_way_that_can_not_run_is_refused(way):
    with pytest.raises(ConfigError, match=f"can't be computed by {way} on cpu") as refused:
        choose_attention(token_scorer(), way)
    assert refused.value.where == "cluster.attention"
    assert "cluster.attention: auto" in str(refused.value)


class FakeGpuWithoutFlex:
    """A CPU that says that it is a GPU: kernels of flash are a stand-in, FlexAttention fails."""

    type = "cuda"


@pytest.fixture
def fake_gpu(monkeypatch, flash) -> None:
    from rlhf.training import attention as module

    monkeypatch.setattr(module.devices, "own_device", FakeGpuWithoutFlex)
    monkeypatch.setattr(module, "problem", lambda root, way, _gpu: problem(root, way, CPU))
    monkeypatch.setattr(module, "is_fused", lambda root, _gpu: False)


def test_the_first_way_that_works_is_taken(fake_gpu, caplog):
    critic = Critic(reward_model(1), 0.0, 1.0)
    actor = ActorCritic(token_scorer(), critic)
    with caplog.at_level(logging.INFO):
        choose_attention(actor, "auto")
        assert attention_facts(actor) == {"attention": "flash"}
        assert "LlamaForCausalLM: attention is flash, rows in one sequence" in caplog.text
        judge = type(critic).__mro__[1](reward_model(1))
        choose_attention(judge, "auto")
    assert "attention can't be flex: a small input ends in" in caplog.text
    assert judge.attention == "flash"
    sequences = token_sequences([5, 9])
    assert actor(sequences, [2, 3])[0].shape == (3 + 6,)


def test_what_can_not_be_packed_is_padded_with_a_word(fake_gpu, caplog):
    bloom = model_of("bloom", PLAIN["bloom"])
    with caplog.at_level(logging.INFO):
        choose_attention(bloom, "auto")
        choose_attention(TokenScorer(causal_lm()), "sdpa")
    assert bloom.attention == "eager"
    assert not bloom.packs
    assert "BloomForCausalLM: attention can't be flash" in caplog.text
    assert "BloomForCausalLM: attention is eager, rows padded" in caplog.text
    assert "keeps all scores" in caplog.text
