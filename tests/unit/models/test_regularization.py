"""Residual dropout and noise on embeddings: where they are, how much, and where they are not."""

from __future__ import annotations

import math

import pytest
import torch
from support.architectures import GPT, PLAIN, SIZES
from support.tiny_models import reply_scorer, token_scorer, token_sequences

from rlhf.errors import ConfigError
from rlhf.models.layers import decoder_layers
from rlhf.models.load import disable_dropout
from rlhf.models.regularization import add_embedding_noise, drop_residuals
from rlhf.models.roots import TokenScorer
from rlhf.training.determinism import seed_pass

ARCHITECTURES = PLAIN | {
    "falcon": {name: size for name, size in SIZES.items() if name != "head_dim"},
    "gemma2": SIZES,
    "gemma3_text": SIZES,
    "gpt_neo": {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 300,
                "attention_types": [[["global"], 2]]},
    "mistral": SIZES,
    "mixtral": SIZES | {"num_local_experts": 2},
    "olmo2": SIZES,
    "olmo3": SIZES,
    "phi3": SIZES,
    "qwen3": SIZES,
    "codegen": GPT | {"rotary_dim": 4},
}  # fmt: skip


def scorer(architecture: str) -> TokenScorer:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **ARCHITECTURES[architecture])
    model = AutoModelForCausalLM.from_config(config)
    disable_dropout(model)
    return TokenScorer(model)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_that_a_layer_adds_can_be_dropped(architecture):
    """With a rate of 1 nothing is added: the layers give what they are given."""
    root = scorer(architecture)
    passed = []
    layers = decoder_layers(root.model)
    layers[0].register_forward_pre_hook(
        lambda _layer, args, kwargs: passed.append(args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    layers[-1].register_forward_hook(
        lambda _layer, _args, out: passed.append(out[0] if isinstance(out, tuple) else out)
    )
    rows = token_sequences([7, 5])
    root.hidden_states(rows)
    assert not torch.equal(*passed), "the layers add nothing by themselves"
    passed.clear()
    drop_residuals(root, 1.0, "none", "x")
    root.hidden_states(rows)
    assert torch.equal(*passed)


def test_what_layers_add_has_to_be_known():
    root = token_scorer(0)
    for layer in root.model.model.layers:
        layer.net = layer.mlp
        del layer.mlp
    with pytest.raises(ConfigError, match="add to the residual stream is not known") as refused:
        drop_residuals(root, 0.1, "none", "sft.x.residual_dropout")
    assert refused.value.where == "sft.x.residual_dropout"


@pytest.mark.parametrize(("ramp", "frozen"), [("none", 0), ("linear", 0), ("none", 1)])
def test_rates_of_layers(ramp, frozen):
    """LIMA: nothing in the lowest layer, the whole rate in the highest, in steps of one size.

    Checklist 16
    """
    root = token_scorer(0, num_hidden_layers=4)
    root.freeze(frozen)
    drop_residuals(root, 0.4, ramp, "x", frozen)
    shares: dict[int, list[float]] = {}
    outputs: dict[tuple[int, str], list[torch.Tensor]] = {}
    for i, layer in enumerate(root.model.model.layers):
        for name in ("self_attn", "mlp"):

            def note(_part, _inputs, out, i=i, name=name):
                out = out[0] if isinstance(out, tuple) else out
                shares.setdefault(i, []).append(float((out == 0).double().mean()))
                outputs.setdefault((i, name), []).append(out.detach())

            getattr(layer, name).register_forward_hook(note)
    rows = token_sequences([40] * 20)
    with torch.no_grad():
        root.hidden_states(rows)
    assert sum(map(sum, shares.values())) == 0.0, "without gradients nothing is dropped"
    shares.clear()
    torch.manual_seed(1)
    root.hidden_states(rows)
    full = {"none": [0.4] * 4, "linear": [0.0, 0.4 / 3, 0.8 / 3, 0.4]}[ramp]
    for i, expected in enumerate(full):
        expected = 0.0 if i < frozen else expected
        for share in shares.get(i, [0.0]):  # a frozen layer is computed without gradients
            assert share == pytest.approx(expected, abs=0.02 if expected else 0)
    # What is kept is larger by 1/(1 − p), so that means stay: in the first layer with dropout
    # attention is given what it is given without.
    first = full.index(next(rate for i, rate in enumerate(full) if rate and i >= frozen))
    plain, dropped = outputs[max(first, frozen), "self_attn"][-2:]
    if first in (0, frozen):
        kept = dropped != 0
        torch.testing.assert_close(dropped[kept], plain[kept] / 0.6)


def logprobs(root: TokenScorer) -> torch.Tensor:
    rows = token_sequences([9, 6])
    return root(rows, [torch.arange(1, len(row)) for row in rows])[0]


def test_a_pass_repeats_by_its_seed_alone():
    root = token_scorer(0)
    with torch.no_grad():
        plain = logprobs(root)
    drop_residuals(root, 0.3, "none", "x")
    add_embedding_noise(root, 5.0)
    found = {}
    for counters in ((3, 0, 0), (3, 0, 1), (3, 1, 0), (4, 0, 0), (3, 0, 0)):
        torch.rand(counters[0])  # whatever was drawn before
        seed_pass(7, *counters)
        again = logprobs(root).detach()
        if counters in found:
            assert torch.equal(found[counters], again)
        found[counters] = again
    assert len({tuple(each.tolist()) for each in found.values()}) == 4
    with torch.no_grad():
        assert torch.equal(logprobs(root), plain)


def test_activations_that_are_computed_again_meet_the_same_draws():
    found = []
    for again in (False, True):
        root = token_scorer(0)
        drop_residuals(root, 0.3, "linear", "x")
        add_embedding_noise(root, 5.0)
        if again:
            root.checkpoint_activations()
        for number in range(2):  # the second pass has other draws, and is learned from as well
            seed_pass(7, 0, number)
            logprobs(root).sum().backward()
        found.append([p.grad for p in root.parameters()])
    for left, right in zip(*found, strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("packed", [False, True])
def test_noise_on_embeddings(packed):
    """Within ± α/√(L·d) of each row, uniform: algorithm 1 of Jain et al."""
    alpha, lengths = 5.0, [4, 25, 100]
    root = token_scorer(0)
    if packed:
        root.attend("sdpa", packs=True)
    embeddings = root.model.get_input_embeddings()
    add_embedding_noise(root, alpha)
    seen = []
    embeddings.register_forward_hook(
        lambda part, args, out: seen.append((out - part.weight[args[0]]).detach())
    )
    rows = token_sequences(lengths)
    places = [torch.arange(1, n) for n in lengths]
    with torch.no_grad():
        root(rows, places)
    assert not seen.pop().any()
    for seed in range(20):
        seed_pass(seed)
        root(rows, places)
    noise = torch.stack(seen).double()
    if packed:
        by_row = noise.squeeze(1).split(lengths, dim=1)
    else:
        by_row = [noise[:, i, :length] for i, length in enumerate(lengths)]
    for length, row in zip(lengths, by_row, strict=True):
        bound = alpha / math.sqrt(length * embeddings.embedding_dim)
        assert 0.97 * bound < float(row.abs().max()) <= bound * (1 + 1e-6)
        assert float(row.mean()) == pytest.approx(0, abs=bound / 20)
        assert float(row.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_rewards_are_learned_with_dropout_and_told_without():
    root = reply_scorer(0)
    history, *replies = token_sequences([6, 4, 3])
    with torch.no_grad():
        before = root([history], [replies])[0]
    drop_residuals(root, 0.5, "none", "x")
    torch.manual_seed(0)
    assert not torch.allclose(root([history], [replies])[0].detach(), before)
    with torch.no_grad():
        assert torch.equal(root([history], [replies])[0], before)
