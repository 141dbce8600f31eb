"""Activations that are computed again in the backward pass: less memory, the same gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.architectures import SIZES
from support.programs import checkpointing_ranks
from support.tiny_models import gradients, run_ranks, token_scorer, token_sequences
from torch.autograd.graph import saved_tensors_hooks

from rlhf.config.training import OptimizerConfig
from rlhf.errors import ConfigError
from rlhf.models.generate import generate
from rlhf.models.load import disable_dropout
from rlhf.models.roots import TokenScorer
from rlhf.runtime.options import EngineOptions
from rlhf.training.engine.open import open_engine

CHANGES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt_neox": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 16},
    "gptj": {"n_embd": 16, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
    "bloom": {},
    "qwen3": {"head_dim": 8},
    "olmo2": {},
}


def scorer(architecture: str) -> TokenScorer:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **SIZES | CHANGES[architecture])
    model = AutoModelForCausalLM.from_config(config)
    disable_dropout(model)
    return TokenScorer(model)


def learned(root: TokenScorer, again: bool) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients, and bytes that the forward pass leaves in the graph."""
    engine = open_engine(
        root, {"": 1e-3}, OptimizerConfig(), EngineOptions(activation_checkpointing=again)
    )
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    rows = token_sequences([24, 24, 24], vocabulary=60)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        logprobs, _ = engine(rows, [torch.tensor([23])] * 3)
    engine.backward(-logprobs.sum(), last=True)
    return gradients(root), sum(kept.values())


@pytest.mark.parametrize("architecture", CHANGES)
@pytest.mark.parametrize("mode", [True, False])
def test_gradients_are_the_same_and_less_is_kept(architecture: str, mode: bool) -> None:
    """Whether the model is in training mode or not."""
    (plain, all_kept), (again, few_kept) = (
        learned(scorer(architecture).train(mode), choice) for choice in (False, True)
    )
    assert few_kept < 0.5 * all_kept
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        assert torch.equal(gradient, again[name]), name


def test_sampling_keeps_its_cache() -> None:
    prompts, draws = token_sequences([5, 9]), torch.rand(2, 6, dtype=torch.float64)
    plain, again = token_scorer(0).train(), token_scorer(0).train()
    again.checkpoint_activations()
    found = [generate(root, prompts, draws, eos_id=2) for root in (plain, again)]
    for left, right in zip(*found, strict=True):
        assert torch.equal(left.ids, right.ids)
        assert left.logprob == right.logprob


def test_engines_of_two_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_DISTRIBUTED_DEBUG", "DETAIL")
    run_ranks(Path(checkpointing_ranks.__file__), tmp_path, timeout=200)
    for rank in range(2):
        kinds = torch.load(tmp_path / f"rank-{rank}.pt")
        assert len(kinds) == 4
        for kind, (plain, again) in kinds.items():
            for name, gradient in plain.items():
                torch.testing.assert_close(
                    again[name], gradient, atol=1e-6, rtol=1e-6, msg=f"{kind} {name}"
                )


def test_an_architecture_that_can_not() -> None:
    from transformers import CTRLConfig, CTRLLMHeadModel

    sizes = {"vocab_size": 60, "n_embd": 16, "dff": 16, "n_layer": 1, "n_head": 2}
    root = TokenScorer(CTRLLMHeadModel(CTRLConfig(**sizes)))
    with pytest.raises(ConfigError, match=r"CTRLLMHeadModel \(ctrl\) can't be computed again"):
        root.checkpoint_activations()
