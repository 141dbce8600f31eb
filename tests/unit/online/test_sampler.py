"""Sampling from a copy of the policy, against sampling from the policy itself."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from support.tiny_models import token_sequences
from support.tiny_online import EOS, VOCABULARY, policy

from rlhf.core.seeds import generator
from rlhf.models.roots import Actor
from rlhf.online import sampler as module
from rlhf.online.sampler import ModelSampler, Noise, ReplicaSampler

PROMPTS = token_sequences([4, 7, 4], seed=5, vocabulary=VOCABULARY)


def noise() -> Noise:
    return Noise(generator(3, "rollout", 0), len(PROMPTS), range(len(PROMPTS)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_copy_is_sampled_from_and_dropped(monkeypatch, dtype):
    model, copies = policy(), []
    make = module.replica

    def remembered(*args):
        copy = make(*args)
        copies.append((weakref.ref(copy), {p.dtype for p in copy.parameters()}))
        return copy

    monkeypatch.setattr(module, "replica", remembered)
    actor = Actor(model)
    narrow = ReplicaSampler(model, "policy.", EOS, 8, 1.0, dtype)
    narrow.refresh((name, p.detach()) for name, p in actor.named_parameters())
    responses = narrow.sample(PROMPTS, noise())
    gc.collect()
    ((copy, types),) = copies
    assert copy() is None, "it takes memory that training needs"
    assert types == {dtype}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in model.parameters())
    expected = ModelSampler(model, EOS, 8, 1.0).sample(PROMPTS, noise())
    if dtype == torch.float32:
        assert [r.ids.tolist() for r in responses] == [r.ids.tolist() for r in expected]
        assert [r.logprob for r in responses] == [r.logprob for r in expected]
    else:
        assert [r.logprob for r in responses] != [r.logprob for r in expected]
