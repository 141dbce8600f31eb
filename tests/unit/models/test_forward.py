from __future__ import annotations

import pytest
import torch
from support.tiny_models import token_scorer, token_sequences
from support.tolerances import assert_near
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from rlhf.models import logprobs as module
from rlhf.models.logprobs import token_logprobs
from rlhf.models.roots import from_starts

ROWS, WIDTH, VOCABULARY = 11, 16, 37


def make_head(bias: bool) -> nn.Linear:
    torch.manual_seed(5)
    return nn.Linear(WIDTH, VOCABULARY, bias=bias)


def everything(head, temperature, compute, bonus=0.0):
    """Values and all gradients of one way to compute log probabilities.

    Args:
        head: the output head.
        temperature: of the distribution.
        compute: log probabilities and entropies.
        bonus: weight of the entropies in what is differentiated.
    """
    torch.manual_seed(6)
    hidden = (torch.randn(ROWS, WIDTH) * 2).requires_grad_()
    targets = torch.randint(VOCABULARY, (ROWS,))
    coefficients = torch.randn(ROWS)
    head.zero_grad()
    logprobs, entropy = compute(hidden, targets, temperature)
    loss = (logprobs * coefficients).sum()
    if bonus:
        loss = loss + bonus * (entropy * coefficients.flip(0)).sum()
    loss.backward()
    grads = [hidden.grad, *(p.grad.clone() for p in head.parameters())]
    return [logprobs.detach(), entropy.detach(), *grads]


@pytest.mark.parametrize("chunk_rows", [1000, 4, 1])
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.5])
@pytest.mark.parametrize("bonus", [0.0, 0.8])
def test_token_logprobs_are_log_softmax(monkeypatch, temperature, bias, kept, chunk_rows, bonus):
    """Checklist 9"""
    head = make_head(bias)

    def plain(hidden, targets, temperature):
        logprobs = (head(hidden) / temperature).log_softmax(-1)
        entropy = -(logprobs.exp() * logprobs).sum(-1)
        return logprobs.gather(1, targets[:, None]).squeeze(1), entropy

    expected = everything(head, temperature, plain, bonus)
    calls = []
    original = module._logits
    monkeypatch.setattr(module, "_logits", lambda *a: calls.append(1) or original(*a))
    monkeypatch.setattr(module, "KEEP_ELEMENTS", ROWS * VOCABULARY - (not kept))
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", chunk_rows * VOCABULARY)
    found = everything(
        head,
        temperature,
        lambda h, t, τ: token_logprobs(head, h, t, τ, True, entropy_gradient=bonus > 0),
        bonus,
    )
    for left, right in zip(found, expected, strict=True):
        assert_near(left, right, WIDTH + VOCABULARY)
    chunks = -(-ROWS // chunk_rows)
    assert len(calls) == chunks * (1 if kept else 2), "the other path ran"


@pytest.mark.parametrize("kept", [True, False])
def test_a_certain_token_has_a_finite_entropy_gradient(monkeypatch, kept):
    """Probabilities of 0, whose logarithms are infinite, count nothing."""
    monkeypatch.setattr(module, "KEEP_ELEMENTS", ROWS * VOCABULARY if kept else 0)
    head = make_head(False)
    with torch.no_grad():
        head.weight.mul_(1e4)
    hidden = torch.randn(ROWS, WIDTH, requires_grad=True)
    targets = torch.zeros(ROWS, dtype=torch.long)
    _, entropy = token_logprobs(head, hidden, targets, with_entropy=True, entropy_gradient=True)
    entropy.sum().backward()
    assert float(entropy.detach().min()) == 0
    assert torch.isfinite(hidden.grad).all()
    assert torch.isfinite(head.weight.grad).all()


def test_entropy_changes_nothing_else():
    head = make_head(False)
    alone = everything(head, 0.9, lambda h, t, τ: token_logprobs(head, h, t, τ, False))
    both = everything(head, 0.9, lambda h, t, τ: token_logprobs(head, h, t, τ, True))
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

    head = make_head(False)
    hidden, targets = torch.randn(ROWS, WIDTH), torch.zeros(ROWS, dtype=torch.long)
    with torch.no_grad(), Count():
        token_logprobs(head, hidden, targets)
    assert Count.exponentials == 0
    with Count():
        token_logprobs(head, hidden, targets)
    assert Count.exponentials == 1


def test_a_frozen_head_gets_no_gradient_but_passes_one_on():
    head = make_head(True)
    head.requires_grad_(False)
    hidden = torch.randn(ROWS, WIDTH, requires_grad=True)
    token_logprobs(head, hidden, torch.arange(ROWS))[0].sum().backward()
    assert head.weight.grad is None
    assert head.bias.grad is None
    assert hidden.grad.abs().sum() > 0


def scored(model, sequences, starts, *options):
    return model(sequences, from_starts(sequences, starts), *options)


def test_logprobs_do_not_depend_on_right_padding():
    """Checklist 3"""
    model = token_scorer(0)
    sequences = token_sequences([9, 31, 14, 60], seed=1)
    starts = [3, 30, 1, 20]
    with torch.no_grad():
        together, _ = scored(model, sequences, starts)
        alone = [scored(model, [s], [a])[0] for s, a in zip(sequences, starts, strict=True)]
    assert_near(together, torch.cat(alone))
    assert len(together) == sum(len(s) - a for s, a in zip(sequences, starts, strict=True))


def test_log_probabilities_are_those_of_the_plain_model():
    model = token_scorer(0)
    (sequence,) = token_sequences([12], seed=2)
    with torch.no_grad():
        found, entropy = scored(model, [sequence], [5], 0.7, True)
        logits = model.model(input_ids=sequence[None]).logits[0] / 0.7
    expected = logits.log_softmax(-1)[range(4, 11), sequence[5:]]
    assert_near(found, expected)
    distribution = torch.distributions.Categorical(logits=logits[4:11])
    assert_near(entropy, distribution.entropy())
