"""transformers' continuous batching, on a CPU with a cache of a few pages."""

from __future__ import annotations

import torch
from support.tiny_models import token_sequences
from support.tiny_online import EOS, VOCABULARY, policy

from rlhf.core.seeds import generator
from rlhf.models.roots import Actor
from rlhf.online.cached_sampler import CachedSampler
from rlhf.online.sampler import Noise

PROMPTS = token_sequences([4, 7, 4, 9, 30, 5], seed=5, vocabulary=VOCABULARY)
LONGEST, TEMPERATURE = 12, 0.7


def sample(model, seed):
    sampler = CachedSampler(model, "policy.", EOS, LONGEST, TEMPERATURE, torch.float32, blocks=8)
    sampler.refresh((name, p.detach()) for name, p in Actor(model).named_parameters())
    noise = Noise(generator(seed, "rollout", 0), len(PROMPTS), range(len(PROMPTS)))
    return sampler.sample(PROMPTS, noise)


@torch.no_grad()
def test_responses_and_their_log_probabilities():
    model, before = policy(), torch.get_rng_state()
    found = sample(model, 3)
    assert torch.equal(torch.get_rng_state(), before), "training has its own random numbers"
    assert model.model.config._attn_implementation == policy().model.config._attn_implementation
    for prompt, response in zip(PROMPTS, found, strict=True):
        assert response.ended == (EOS in response.ids.tolist())
        assert len(response.ids) == LONGEST or int(response.ids[-1]) == EOS
        logits = model.model(torch.cat([prompt, response.ids])[None]).logits[0] / TEMPERATURE
        own = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, response.ids[:, None])
        torch.testing.assert_close(response.logprobs, own.squeeze(1), rtol=0, atol=1e-5)
    assert any(response.ended for response in found)
    assert not all(response.ended for response in found)
    again = sample(model, 3)
    assert [each.ids.tolist() for each in again] == [each.ids.tolist() for each in found]
    others = sample(model, 4)
    assert [each.ids.tolist() for each in others] != [each.ids.tolist() for each in found]


def test_a_rank_without_prompts():
    model = policy()
    sampler = CachedSampler(model, "policy.", EOS, LONGEST, TEMPERATURE, torch.float32, blocks=8)
    sampler.refresh((name, p.detach()) for name, p in Actor(model).named_parameters())
    assert sampler.sample([], Noise(generator(3, "rollout", 0), 2, [])) == []
