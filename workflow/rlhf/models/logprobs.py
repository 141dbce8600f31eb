"""Log probabilities of given tokens from hidden states, without the logits of a whole vocabulary.

Shapes: N tokens, H the width, V the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from rlhf.models.devices import moved
from rlhf.models.head import OwnHead, computing
from rlhf.models.precision import add_product, is_narrow, products, wide_linear

# Up to this many probabilities (256 MiB of float32) are kept for the backward pass; beyond, they
# are computed again chunk by chunk.
KEEP_ELEMENTS = 2**26
CHUNK_ELEMENTS = 2**24


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(h Wᵀ / τ) at given targets, without the [N, V] that autograd would keep twice.

    Gradients in the logits z / τ, with probabilities p and entropy H: of log p_t it is
    1[j = t] − p_j, of H it is −p_j (log p_j + H).
    """

    @staticmethod
    def forward(
        ctx, hidden, weight, bias, targets, temperature, with_entropy, learn, entropy_gradient
    ):
        vocabulary = weight.shape[0]
        chunk = max(1, CHUNK_ELEMENTS // vocabulary)
        keep = learn and any(ctx.needs_input_grad[:3])
        keep = keep and hidden.shape[0] * vocabulary <= KEEP_ELEMENTS
        narrow, own_bias = _of_type(hidden.dtype, weight, bias)
        logprobs, entropies, kept = [], [], []
        for h, t in zip(hidden.split(chunk), targets.split(chunk), strict=True):
            logits = _logits(h, narrow, own_bias, temperature)
            normalizer = logits.logsumexp(-1, keepdim=True)
            logits -= normalizer
            logprobs.append(logits.gather(1, t[:, None]).squeeze(1))
            if keep or with_entropy:
                probabilities = logits.exp()
                if with_entropy:
                    entropies.append(-torch.einsum("nv,nv->n", probabilities, logits))
                if keep:
                    kept.append(probabilities)
        ctx.temperature, ctx.chunk = temperature, chunk
        entropy = torch.cat(entropies) if with_entropy else torch.zeros(0, device=hidden.device)
        ctx.save_for_backward(hidden, weight, bias, targets, entropy, *kept)
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy)
        ctx.entropy_gradient = entropy_gradient and with_entropy
        return torch.cat(logprobs), entropy

    @staticmethod
    def backward(ctx, gradient, entropy_gradient):
        hidden, weight, bias, targets, entropy, *kept = ctx.saved_tensors
        narrow, own_bias = _of_type(hidden.dtype, weight, bias)
        d_hidden = torch.empty_like(hidden)
        # Sums over chunks, of which there may be a hundred: in eight bits they would lose digits.
        wide = torch.promote_types(weight.dtype, torch.float32)
        d_weight = torch.zeros_like(weight, dtype=wide) if ctx.needs_input_grad[1] else None
        d_bias = None
        if bias is not None and ctx.needs_input_grad[2]:
            d_bias = torch.zeros_like(bias, dtype=wide)
        for i, start in enumerate(range(0, hidden.shape[0], ctx.chunk)):
            rows = slice(start, start + ctx.chunk)
            h, t, g = hidden[rows], targets[rows], gradient[rows, None] / ctx.temperature
            if kept:
                probabilities = kept[i]
            else:
                probabilities = _logits(h, narrow, own_bias, ctx.temperature).softmax(-1)
            d_logits = probabilities * -g
            d_logits.scatter_add_(1, t[:, None], g.to(d_logits.dtype))
            if ctx.entropy_gradient:
                g = entropy_gradient[rows, None] / ctx.temperature
                # p log p is 0 where p is.
                change = torch.xlogy(probabilities, probabilities)
                d_logits -= change.addcmul_(probabilities, entropy[rows, None]).mul_(g)
            d_logits = d_logits.to(hidden.dtype)
            torch.mm(d_logits, narrow, out=d_hidden[rows])
            if d_weight is not None:
                add_product(d_weight, d_logits.t(), h)
            if d_bias is not None:
                d_bias += d_logits.sum(0, dtype=wide)
        d_weight, d_bias = _of_type(weight.dtype, d_weight, d_bias)
        return d_hidden, d_weight, d_bias, None, None, None, None, None


def _of_type(
    dtype: torch.dtype, weight: torch.Tensor | None, bias: torch.Tensor | None
) -> tuple[Any, torch.Tensor | None]:
    first, second = (each if each is None else each.to(dtype) for each in (weight, bias))
    return first, second


def _logits(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, temperature: float
) -> torch.Tensor:
    logits = wide_linear(hidden, weight, bias)
    return logits.div_(temperature) if temperature != 1.0 else logits


def token_logprobs(
    head: nn.Linear,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    temperature: float = 1.0,
    with_entropy: bool = False,
    dtype: torch.dtype | None = None,
    entropy_gradient: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log probabilities of the given tokens, and the entropy at each.

    Args:
        head: the matrix that makes logits of hidden states.
        hidden: [N, H], the hidden state *before* each target.
        targets: [N], token ids.
        temperature: logits are divided by this, as in sampling.
        with_entropy: also compute entropies.
        dtype: type of the matrix products; None: that of the weights.
        entropy_gradient: whether entropies are differentiable too.

    Returns:
        Log probabilities [N] in nats, differentiable in the hidden states and the head; entropies
        [N] in nats, or [0].
    """
    # The head goes in as it is: its gradient is summed, and given back, in its own type.
    narrow = hidden.to(dtype or head.weight.dtype)
    targets, learn = moved(targets, hidden.device), torch.is_grad_enabled()

    def logprobs(states: torch.Tensor) -> Any:
        return _TokenLogprobs.apply(
            states, head.weight, head.bias, targets, temperature, with_entropy, learn,
            entropy_gradient,
        )  # fmt: skip

    # A call of the head, around which an engine may gather its weight.
    with computing(head, logprobs):
        return head(narrow)


def own_token_logprobs(
    own: OwnHead,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    temperature: float = 1.0,
    with_entropy: bool = False,
    dtype: torch.dtype | None = None,
    entropy_gradient: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``token_logprobs`` of a model that makes logits in a way of its own."""
    vocabulary = own.vocabulary
    again = torch.is_grad_enabled() and hidden.shape[0] * vocabulary > KEEP_ELEMENTS

    def piece(h: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with products(h.device, dtype):
            logits = own.logits(h, narrow=is_narrow(dtype)).float()
        logprobs = (logits / temperature).log_softmax(-1)
        entropy = hidden.new_zeros(0)
        if with_entropy:
            known = logprobs if entropy_gradient else logprobs.detach()
            entropy = -(known.exp() * known).sum(-1)
        return logprobs.gather(1, t[:, None]).squeeze(1), entropy

    rows = max(1, CHUNK_ELEMENTS // vocabulary)
    pieces = [
        checkpoint(piece, h, t, use_reentrant=False) if again else piece(h, t)
        for h, t in zip(hidden.split(rows), moved(targets, hidden.device).split(rows), strict=True)
    ]
    logprobs, entropies = zip(*pieces, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)
