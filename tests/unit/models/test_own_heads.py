"""Models whose logits are more than a matrix times their last hidden states, and those refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.architectures import OWN, PLAIN, SIZES, saved
from support.tiny_models import VOCABULARY, causal_lm, token_sequences

from rlhf.algorithms.sft import SftObjective
from rlhf.errors import ConfigError
from rlhf.models import logprobs as module
from rlhf.models.generate import generate, uniforms
from rlhf.models.head import find_head
from rlhf.models.load import load_token_scorer
from rlhf.models.roots import from_starts
from rlhf.models.scoring import sequence_logprobs

SAMPLED = [name for name in OWN if name not in ("falcon_h1", "recurrent_gemma", "xlstm")]


def own_logprobs(model, sequence, start, temperature=1.0):
    """What transformers' forward pass says of the tokens from ``start`` on."""
    logits = model(input_ids=sequence[None], use_cache=False).logits[0, start - 1 : -1].float()
    return (logits / temperature).log_softmax(-1).gather(1, sequence[start:, None]).squeeze(1)


@pytest.mark.parametrize("architecture", OWN)
def test_log_probabilities_are_the_models_own(tmp_path, architecture):
    model = load_token_scorer(saved(tmp_path, architecture, OWN[architecture]))
    assert find_head(model.model, tmp_path)
    assert model.width == 32
    sequences = token_sequences([9, 14, 11], seed=2)
    found = sequence_logprobs(model, sequences, [4, 1, 6], 0.7, 1000)
    with torch.no_grad():
        for sequence, start, logprobs in zip(sequences, [4, 1, 6], found, strict=True):
            expected = own_logprobs(model.model, sequence, start, 0.7)
            torch.testing.assert_close(logprobs, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
@pytest.mark.parametrize("architecture", ["cohere", "gemma2", "modernbert-decoder"])
def test_sft_has_the_gradients_of_the_models_own_loss(monkeypatch, tmp_path, architecture, again):
    model = load_token_scorer(saved(tmp_path, architecture, OWN[architecture]))
    monkeypatch.setattr(module, "KEEP_ELEMENTS", 0 if again else 2**26)
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 3 * VOCABULARY)
    (sequence,) = token_sequences([10], seed=3)
    ids = sequence.tolist()
    loss, _ = SftObjective()(model, [{"input_ids": ids, "labels": [-100] * 4 + ids[4:]}])
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    (-own_logprobs(model.model, sequence, 4).sum()).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-3, rtol=1e-3, msg=name)


@pytest.mark.parametrize("architecture", SAMPLED)
def test_samples_are_the_models_own(tmp_path, architecture):
    model = load_token_scorer(saved(tmp_path, architecture, OWN[architecture]))
    (prompt,) = token_sequences([5], seed=4)
    draws = uniforms(np.random.default_rng(0), 1, 6)
    (response,) = generate(model, [prompt], draws, eos_id=-1, temperature=0.9)
    with torch.no_grad():
        logprobs = own_logprobs(model.model, torch.cat([prompt, response.ids]), 5, 0.9)
    assert response.logprob == pytest.approx(float(logprobs.sum()), abs=1e-3)


def test_entropies_are_the_models_own(tmp_path):
    model = load_token_scorer(saved(tmp_path, "gemma2", OWN["gemma2"]))
    (sequence,) = token_sequences([8])
    with torch.no_grad():
        _, found = model([sequence], from_starts([sequence], [1]), with_entropy=True)
        logprobs = model.model(input_ids=sequence[None]).logits[0, :-1].log_softmax(-1)
    torch.testing.assert_close(found, -(logprobs.exp() * logprobs).sum(-1))


def test_entropies_have_the_gradients_of_the_models_own(tmp_path):
    model = load_token_scorer(saved(tmp_path, "gemma2", OWN["gemma2"]))
    (sequence,) = token_sequences([8])
    places = from_starts([sequence], [1])
    _, entropy = model([sequence], places, with_entropy=True, entropy_gradient=True)
    entropy.square().sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    logprobs = model.model(input_ids=sequence[None]).logits[0, :-1].log_softmax(-1)
    (logprobs.exp() * logprobs).sum(-1).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-3, rtol=1e-3, msg=name)


def test_caps_stay_float32_where_products_are_narrow(tmp_path):
    model = load_token_scorer(saved(tmp_path, "gemma2", OWN["gemma2"]))
    model.compute_in("bfloat16")
    hidden = torch.randn(6, 32, generator=torch.Generator().manual_seed(1))
    targets = torch.arange(6)
    with torch.no_grad():
        found, _ = model.logprobs(hidden, targets)
        product = model.model.lm_head.weight.bfloat16() @ hidden.bfloat16().t()
        expected = product.t().float().tanh().log_softmax(-1).gather(1, targets[:, None])
    torch.testing.assert_close(found, expected.squeeze(1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("architecture", PLAIN)
def test_a_matrix_stays_a_matrix(tmp_path, architecture):
    """These take the fast way, whose bytes nobody may change."""
    model = load_token_scorer(saved(tmp_path, architecture, PLAIN[architecture]))
    assert find_head(model.model, tmp_path) is None
    (sequence,) = token_sequences([9])
    (found,) = sequence_logprobs(model, [sequence], [3], 1.0, 100)
    with torch.no_grad():
        torch.testing.assert_close(
            found, own_logprobs(model.model, sequence, 3), atol=1e-5, rtol=1e-5
        )


def test_a_cap_far_above_the_logits_is_seen(tmp_path):
    """Logits of a young model are small; training makes them grow into the cap."""
    sizes = SIZES | {"final_logit_softcapping": 50.0, "initializer_range": 0.02}
    model = load_token_scorer(saved(tmp_path, "gemma2", sizes)).model
    assert find_head(model, tmp_path)


def test_loading_leaves_the_random_state_alone(tmp_path):
    saved(tmp_path, "llama", SIZES)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_token_scorer(tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_a_model_that_looks_ahead_is_refused(tmp_path):
    saved(tmp_path, "bert", SIZES | {"is_decoder": False})
    with pytest.raises(ConfigError, match=r"BertLMHeadModel \(bert\).*tokens to its right"):
        load_token_scorer(tmp_path)


def test_logits_of_more_than_hidden_states_are_refused(monkeypatch, tmp_path):
    from transformers import LlamaForCausalLM

    causal_lm(0).save_pretrained(tmp_path)
    original = LlamaForCausalLM.forward

    def biased(self, input_ids=None, **kwargs):
        made = original(self, input_ids=input_ids, **kwargs)
        made.logits = made.logits + input_ids[..., None]
        return made

    monkeypatch.setattr(LlamaForCausalLM, "forward", biased)
    with pytest.raises(ConfigError, match=r"\(llama\).*not made from its last hidden states"):
        load_token_scorer(tmp_path)
