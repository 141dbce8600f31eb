from __future__ import annotations

import pytest
import torch
from support.tiny_models import causal_lm, token_sequences
from support.tolerances import assert_near
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from rlhf.models import forward
from rlhf.models.forward import continuation_logprobs, token_logprobs

ROWS, WIDTH, VOCABULARY = 11, 16, 37


class Headed:
    def __init__(self, bias: bool) -> None:
        torch.manual_seed(5)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=bias)

    def get_output_embeddings(self) -> nn.Linear:
        return self.head


def everything(model, temperature, compute):
    """Values and all gradients of one way to compute log probabilities."""
    torch.manual_seed(6)
    hidden = (torch.randn(ROWS, WIDTH) * 2).requires_grad_()
    targets = torch.randint(VOCABULARY, (ROWS,))
    coefficients = torch.randn(ROWS)
    model.head.zero_grad()
    logprobs, entropy = compute(hidden, targets, temperature)
    (logprobs * coefficients).sum().backward()
    grads = [hidden.grad, *(p.grad.clone() for p in model.head.parameters())]
    return [logprobs.detach(), entropy.detach(), *grads]


@pytest.mark.parametrize("chunk_rows", [1000, 4, 1])
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.5])
def test_token_logprobs_are_log_softmax(monkeypatch, temperature, bias, kept, chunk_rows):
    """Checklist 9"""
    model = Headed(bias)

    def plain(hidden, targets, temperature):
        logprobs = (model.head(hidden) / temperature).log_softmax(-1)
        entropy = -(logprobs.exp() * logprobs).sum(-1)
        return logprobs.gather(1, targets[:, None]).squeeze(1), entropy

    expected = everything(model, temperature, plain)
    calls = []
    original = forward._logits
    monkeypatch.setattr(forward, "_logits", lambda *a: calls.append(1) or original(*a))
    monkeypatch.setattr(forward, "KEEP_ELEMENTS", ROWS * VOCABULARY - (not kept))
    monkeypatch.setattr(forward, "CHUNK_ELEMENTS", chunk_rows * VOCABULARY)
    found = everything(model, temperature, lambda h, t, τ: token_logprobs(model, h, t, τ, True))
    for left, right in zip(found, expected, strict=True):
        assert_near(left, right, WIDTH + VOCABULARY)
    chunks = -(-ROWS // chunk_rows)
    assert len(calls) == chunks * (1 if kept else 2), "the other path ran"


def test_entropy_changes_nothing_else():
    model = Headed(False)
    alone = everything(model, 0.9, lambda h, t, τ: token_logprobs(model, h, t, τ, False))
    both = everything(model, 0.9, lambda h, t, τ: token_logprobs(model, h, t, τ, True))
    assert alone[1].shape == (0,)
    assert both[1].shape == (ROWS,)
    assert torch.equal(alone[0], both[0])
    assert all(torch.equal(a, b) for a, b in zip(alone[2:], both[2:], strict=True))


def test_without_gradient_no_probabilities_are_kept():
    class Count(TorchDispatchMode):
        exponentials = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            Count.exponentials += function is torch.ops.aten.exp.default
            return function(*args, **(kwargs or {}))

    model = Headed(False)
    hidden, targets = torch.randn(ROWS, WIDTH), torch.zeros(ROWS, dtype=torch.long)
    with torch.no_grad(), Count():
        token_logprobs(model, hidden, targets)
    assert Count.exponentials == 0
    with Count():
        token_logprobs(model, hidden, targets)
    assert Count.exponentials == 1


def test_a_frozen_head_gets_no_gradient_but_passes_one_on():
    model = Headed(True)
    model.head.requires_grad_(False)
    hidden = torch.randn(ROWS, WIDTH, requires_grad=True)
    token_logprobs(model, hidden, torch.arange(ROWS))[0].sum().backward()
    assert model.head.weight.grad is None
    assert model.head.bias.grad is None
    assert hidden.grad.abs().sum() > 0


def test_logprobs_do_not_depend_on_right_padding():
    """Checklist 3"""
    model = causal_lm(0)
    sequences = token_sequences([9, 31, 14, 60], seed=1)
    starts = [3, 30, 1, 20]
    with torch.no_grad():
        together, _, _ = continuation_logprobs(model, sequences, starts)
        alone = [continuation_logprobs(model, [s], [a])[0] for s, a in zip(sequences, starts)]  # noqa: B905
    assert_near(together, torch.cat(alone))
    assert len(together) == sum(len(s) - a for s, a in zip(sequences, starts, strict=True))


def test_continuation_logprobs_are_those_of_the_plain_model():
    model = causal_lm(0)
    (sequence,) = token_sequences([12], seed=2)
    with torch.no_grad():
        found, entropy, before = continuation_logprobs(model, [sequence], [5], 0.7, True)
        logits = model(input_ids=sequence[None]).logits[0] / 0.7
    expected = logits.log_softmax(-1)[range(4, 11), sequence[5:]]
    assert_near(found, expected)
    distribution = torch.distributions.Categorical(logits=logits[4:11])
    assert_near(entropy, distribution.entropy())
    assert before.shape == (7, 32)
