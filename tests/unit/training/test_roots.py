"""The roots against transformers' own forward pass, row by row: values and gradients."""

from __future__ import annotations

import pytest
import torch
from support.tiny_models import causal_lm, gradients, reply_scorer, reward_model, token_scorer
from support.tiny_models import token_sequences as tokens
from support.tolerances import assert_gradients_near, assert_near

from rlhf.models.roots import ActorCritic, Critic, TokenScorer, ValueHead

PROMPT, OTHER, *REPLIES = tokens([7, 4, 5, 2, 9, 3], seed=3)
PROMPTS = [PROMPT, PROMPT, OTHER, PROMPT]
SEQUENCES = [torch.cat(pair) for pair in zip(PROMPTS, REPLIES, strict=True)]
STARTS = [len(prompt) for prompt in PROMPTS]
TEMPERATURE = 0.7


def plain_logprobs(model, temperature=1.0):
    """log π of the replies [N] and entropies [N], from the logits of whole rows."""
    found, entropies = [], []
    for ids, start in zip(SEQUENCES, STARTS, strict=True):
        logits = model(input_ids=ids[None]).logits[0, start - 1 : -1] / temperature
        logprobs = logits.log_softmax(-1)
        found.append(logprobs.gather(1, ids[start:, None]).squeeze(1))
        entropies.append(-(logprobs.exp() * logprobs).sum(-1))
    return torch.cat(found), torch.cat(entropies).detach()


def slopes(values: torch.Tensor) -> torch.Tensor:
    """Weights of a sum, so that every value has a gradient of its own."""
    return torch.linspace(-1, 2, len(values))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("frozen", [0, 1])
def test_token_scorer(frozen, shared, tied):
    scorer = token_scorer(0, tie_word_embeddings=tied)
    scorer.freeze(frozen)
    places = [torch.arange(s, len(ids)) for ids, s in zip(SEQUENCES, STARTS, strict=True)]
    prompts = [start - 1 for start in STARTS] if shared else None
    found, entropy = scorer(SEQUENCES, places, TEMPERATURE, True, prompts)
    (found * slopes(found)).sum().backward()
    got = gradients(scorer)
    scorer.zero_grad()
    expected, entropies = plain_logprobs(scorer.model, TEMPERATURE)
    (expected * slopes(expected)).sum().backward()
    assert_near(found, expected)
    assert_near(entropy, entropies)
    assert_gradients_near(got, gradients(scorer))
    assert got.keys() == {name for name, p in scorer.named_parameters() if p.requires_grad}


def test_tokens_are_scored_where_they_are_asked_for():
    scorer = token_scorer(0)
    places = [torch.tensor([1, 4, 8]), torch.tensor([3]), torch.tensor([], dtype=torch.long)]
    found, entropy = scorer(SEQUENCES[:3], places)
    parts = []
    for ids, each in zip(SEQUENCES, places, strict=False):
        logprobs = scorer.model(input_ids=ids[None]).logits[0].log_softmax(-1)
        parts.append(logprobs[each - 1, ids[each]])
    assert_near(found, torch.cat(parts))
    assert entropy.shape == (0,)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("frozen", [0, 1])
def test_reply_scorer(frozen, attention):
    scorer = reply_scorer(1)
    scorer.model.config._attn_implementation = attention
    scorer.freeze(frozen)
    histories, replies = [PROMPT, OTHER], [REPLIES[:3], REPLIES[3:]]
    (joined,) = scorer(histories, replies)
    assert len(joined) == 4
    (joined * slopes(joined)).sum().backward()
    got = gradients(scorer)
    scorer.zero_grad()
    pairs = [(h, reply) for h, own in zip(histories, replies, strict=True) for reply in own]
    scorer.model.config.pad_token_id = None  # transformers then takes the last position
    expected = torch.cat(
        [scorer.model(input_ids=torch.cat(pair)[None]).logits[0] for pair in pairs]
    )
    (expected * slopes(expected)).sum().backward()
    assert_near(joined, expected)
    assert_gradients_near(got, gradients(scorer))


@pytest.mark.parametrize("kind", ["head", "critic"])
def test_actor_critic(kind):
    policy = causal_lm(0)
    value = Critic(reward_model(1), 0.3, 1.5) if kind == "critic" else ValueHead(32)
    if kind == "head":
        torch.nn.init.normal_(value.linear.weight)
    root = ActorCritic(TokenScorer(policy), value, TEMPERATURE)

    def learn(logprobs, values):
        root.zero_grad()
        (logprobs * slopes(logprobs) + values * slopes(values) ** 2).sum().backward()
        return gradients(root)

    logprobs, values, entropy = root(SEQUENCES, STARTS, with_entropy=True)
    got = learn(logprobs, values)
    body, head, mean, std = policy.model, getattr(value, "linear", None), 0.0, 1.0
    if kind == "critic":
        body, head, mean, std = value.model.model, value.model.score, 0.3, 1.5
    states = [
        body(input_ids=ids[None]).last_hidden_state[0, start - 1 : -1]
        for ids, start in zip(SEQUENCES, STARTS, strict=True)
    ]
    expected, entropies = plain_logprobs(policy, TEMPERATURE)
    plain_values = (head(torch.cat(states)).squeeze(-1) - mean) / std
    assert_near(logprobs, expected)
    assert_near(values, plain_values)
    assert_near(entropy, entropies)
    assert_gradients_near(got, learn(expected, plain_values))
    assert got.keys() == {name for name, _ in root.named_parameters()}
