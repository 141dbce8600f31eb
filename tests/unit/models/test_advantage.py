"""Decoding by advantages, and value heads beside a published model."""

from __future__ import annotations

import pytest
import torch
from support.tiny_models import causal_lm, token_scorer, token_sequences

from rlhf.core.seeds import generator
from rlhf.errors import IntegrityError
from rlhf.models.advantage import AdvantagePolicy, has_heads, load_heads
from rlhf.models.decoding import Decoding
from rlhf.models.generate import generate, uniforms
from rlhf.models.ilql import HEADS, ValueHeads, decoding_heads, save_heads
from rlhf.models.load import load_token_scorer
from rlhf.models.scoring import sequence_logprobs


@pytest.fixture
def heads():
    """Values that matter beside the logits of a tiny model."""
    found = ValueHeads(32, 300, two_qs=True, seed=1).requires_grad_(False)
    for head in (found.value, *found.target):
        head.outer.weight *= 20
    return found


@pytest.mark.parametrize("beta", [0.5, 4.0])
@torch.no_grad()
def test_logits_are_those_of_the_policy_shifted_by_advantages(heads, beta):
    """log π + β·(the lesser target − V), in float64."""
    policy, states = token_scorer(0), torch.randn(5, 32)
    exact = {name: each.double() for name, each in heads.state_dict().items()}

    def output(head: str) -> torch.Tensor:
        inner = states.double() @ exact[f"{head}.inner.weight"].T + exact[f"{head}.inner.bias"]
        outer = inner.clamp(min=0) @ exact[f"{head}.outer.weight"].T
        return outer + exact[f"{head}.outer.bias"]

    least = torch.minimum(output("target.0"), output("target.1"))
    plain = policy.logits(states).double().log_softmax(-1)
    expected = plain + beta * (least - output("value"))
    found = AdvantagePolicy(policy, heads, beta, 0).logits(states)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_without_beta_it_is_the_policy(heads):
    policy, states = token_scorer(0), torch.randn(5, 32)
    found = AdvantagePolicy(policy, heads, 0.0, 0).logits(states)
    assert torch.equal(found, policy.logits(states))


@torch.no_grad()
def test_of_top_k_alone_something_is_drawn(heads):
    states = torch.randn(5, 32)
    every = AdvantagePolicy(token_scorer(0), heads, 2.0, 0).logits(states)
    few = AdvantagePolicy(token_scorer(0), heads, 2.0, 3).logits(states)
    kept = every.topk(3).indices
    assert torch.equal(few.gather(1, kept), every.gather(1, kept))
    assert few.isfinite().sum(-1).tolist() == [3] * 5


@pytest.mark.parametrize(("top_k", "temperature"), [(0, 1.0), (4, 1.0), (0, 0.7)])
@torch.no_grad()
def test_a_response_has_the_log_probability_that_it_was_drawn_with(heads, top_k, temperature):
    """The forward pass says the same: of the shifted distribution, not of the policy.

    Checklist 10.
    """
    plain = token_scorer(0).eval()
    policy = AdvantagePolicy(plain, heads, 2.0, top_k).eval()
    prompts = token_sequences([4, 6, 5])
    draws = uniforms(generator(0, "test"), 3, 5)
    found = generate(policy, prompts, draws, 2, temperature)
    sequences = [torch.cat([p, one.ids]) for p, one in zip(prompts, found, strict=True)]
    starts = [len(prompt) for prompt in prompts]
    known = sequence_logprobs(policy, sequences, starts, temperature, 64)
    for one, logprobs in zip(found, known, strict=True):
        torch.testing.assert_close(one.logprobs, logprobs, atol=1e-3, rtol=1e-3)
    others = sequence_logprobs(plain, sequences, starts, temperature, 64)
    assert max(abs(float(a.sum() - b.sum())) for a, b in zip(known, others, strict=True)) > 0.1


@torch.no_grad()
def test_what_can_be_drawn_is_cut_off_from_the_shifted_distribution(heads):
    """The most probable token alone is what greedy decoding takes, and no EOS comes too early."""
    policy = AdvantagePolicy(token_scorer(0).eval(), heads, 2.0, 0).eval()
    prompts = token_sequences([4, 6, 5])
    draws = uniforms(generator(0, "test"), 3, 5)
    best = generate(policy, prompts, draws, 2, decoding=Decoding(top_k=1))
    greedy = generate(policy, prompts, draws, 2, temperature=0.0)
    assert [one.ids.tolist() for one in best] == [one.ids.tolist() for one in greedy]
    eos = int(best[0].ids[0])  # such that a response would end at once
    short = generate(policy, prompts[:1], draws[:1], eos, decoding=Decoding(top_k=1))
    longer = generate(
        policy, prompts[:1], draws[:1], eos, decoding=Decoding(top_k=1, min_new_tokens=2)
    )
    assert len(short[0].ids) == 1 < 2 <= len(longer[0].ids)


def test_new_heads_follow_from_the_seed_alone():
    torch.manual_seed(3)
    one = ValueHeads(8, 20, True, 5).state_dict()
    torch.manual_seed(4)
    other, third = ValueHeads(8, 20, True, 5).state_dict(), ValueHeads(8, 20, True, 6).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["value.inner.weight"], third["value.inner.weight"])
    assert not torch.equal(one["q.0.outer.weight"], one["q.1.outer.weight"])
    assert torch.equal(one["q.1.outer.weight"], one["target.1.outer.weight"])
    assert float(one["q.0.outer.weight"].abs().max()) <= 1 / 4


@pytest.mark.parametrize("two_qs", [True, False])
def test_heads_stand_beside_a_plain_model(tmp_path, two_qs):
    model = causal_lm(0)
    model.save_pretrained(tmp_path)
    assert not has_heads(tmp_path)
    heads = ValueHeads(32, 300, two_qs, 1)
    save_heads(tmp_path, dict(decoding_heads(heads.state_dict().items())))
    assert has_heads(tmp_path)
    policy = load_token_scorer(tmp_path)
    assert torch.equal(policy.model.lm_head.weight, model.lm_head.weight)
    states = torch.randn(3, 32)
    with torch.no_grad():
        found = load_heads(tmp_path, policy).advantages(states)
        assert torch.equal(found, heads.advantages(states))


def test_damaged_heads_are_refused(tmp_path):
    heads = ValueHeads(16, 300, True, 1)  # of a narrower model
    save_heads(tmp_path, dict(decoding_heads(heads.state_dict().items())))
    with pytest.raises(IntegrityError, match="size mismatch"):
        load_heads(tmp_path, token_scorer(0))
    (tmp_path / HEADS).write_bytes(b"nothing")
    with pytest.raises(IntegrityError, match="rlhf verify"):
        load_heads(tmp_path, token_scorer(0))
