"""Continuous batching on a GPU, with as many pages as its memory has room for."""

from __future__ import annotations

import pytest
import torch
from support.tiny_models import token_scorer, token_sequences

from rlhf.core.seeds import generator
from rlhf.models.roots import Actor
from rlhf.online.cached_sampler import CachedSampler
from rlhf.online.sampler import Noise

pytestmark = pytest.mark.gpu
PROMPTS = token_sequences([4, 7, 30, 9], seed=5)
EOS, LONGEST, TEMPERATURE = 2, 24, 0.7


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-3), (torch.bfloat16, 0.3)])
def test_log_probabilities_are_the_policys(dtype, most):
    model = token_scorer(0, hidden_size=64).cuda()
    sampler = CachedSampler(model, "policy.", EOS, LONGEST, TEMPERATURE, dtype)
    sampler.refresh((name, p.detach()) for name, p in Actor(model).named_parameters())
    noise = Noise(generator(3, "rollout", 0), len(PROMPTS), range(len(PROMPTS)))
    for prompt, response in zip(PROMPTS, sampler.sample(PROMPTS, noise), strict=True):
        assert 0 < len(response.ids) <= LONGEST
        ids = torch.cat([prompt, response.ids]).cuda()
        logits = model.model(ids[None]).logits[0] / TEMPERATURE
        own = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, response.ids.cuda()[:, None])
        assert (own.squeeze(1).cpu() - response.logprobs).abs().max() < most
