"""Adapters that look trained."""

from __future__ import annotations

from pathlib import Path

import torch


class NoTokenizer:
    """A model is published with a tokenizer; these tests need none."""

    def save_pretrained(self, folder: Path) -> None:
        pass


def moved(model: torch.nn.Module, seed: int = 0) -> None:
    """Change all that is trained, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def assert_quantized_trains(device: torch.device, precision: str) -> None:
    """QLoRA on a device: 4 bits a weight, gradients for the adapter alone, the same 4 bits after.

    And an adapter that moves what is computed, samples as it scores, and can be switched off.
    """
    from rlhf.config.training import OptimizerConfig
    from rlhf.models.adapter_weights import adapter_tensors
    from rlhf.models.adapters import add_adapter, switched_off
    from rlhf.models.generate import generate
    from rlhf.models.publish import below
    from rlhf.models.quantized import is_quantized, quantize
    from rlhf.training.engine.replicated import Replicated
    from support.tiny_models import gradients, token_scorer, token_sequences
    from support.tiny_settings import lora

    sequences = token_sequences([9, 6, 12], seed=1)
    places = [torch.arange(1, len(ids)) for ids in sequences]
    scorer = token_scorer(0, hidden_size=64, intermediate_size=128)
    whole = token_scorer(0, hidden_size=64, intermediate_size=128).to(device)
    quantize(scorer.model, getattr(torch, precision))
    add_adapter(scorer.model, lora(), 0, "x")
    scorer.compute_in(precision)
    engine = Replicated(scorer, {"": 1e-2}, OptimizerConfig())
    assert scorer.device.type == device.type
    assert is_quantized(scorer.model)
    layer = scorer.model.model.layers[0].mlp.up_proj.base_layer
    assert layer.weight.dtype == torch.uint8
    assert layer.weight.numel() == layer.in_features * layer.out_features // 2
    start = engine(sequences, places)[0].detach()
    difference = (start - whole(sequences, places)[0]).abs().mean()
    assert 0 < difference < 0.5, "the scales are those of the weights"
    frozen = {n: p.detach().clone() for n, p in scorer.named_parameters() if not p.requires_grad}
    trained = {n for n, p in scorer.named_parameters() if p.requires_grad}
    for _ in range(2):
        engine.backward(-engine(sequences, places)[0].sum(), last=True)
        found = gradients(scorer)
        engine.step(1.0)
    assert found.keys() == trained
    assert all(tensor.abs().max() > 0 for tensor in found.values())
    for name, tensor in frozen.items():
        assert torch.equal(tensor, scorer.get_parameter(name)), name
    moved_by = (engine(sequences, places)[0] - start).abs().max()
    assert moved_by > 0.1
    with switched_off(scorer.model):
        assert torch.equal(engine(sequences, places)[0], start)
    assert len(adapter_tensors(scorer.model, below(engine.weights(), "model."))) == len(trained)
    draws = torch.rand(2, 8, generator=torch.Generator().manual_seed(0))
    for prompt, response in zip(
        sequences[:2], generate(scorer, sequences[:2], draws, eos_id=-1), strict=True
    ):
        ids = torch.cat([prompt, response.ids.cpu()])
        logprobs = engine([ids], [torch.arange(len(prompt), len(ids))])[0]
        rounding = 1e-3 if precision == "float32" else 0.5
        assert abs(float(logprobs.detach().sum()) - response.logprob) < rounding
