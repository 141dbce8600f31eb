"""The forward passes that training and in-process scoring share.

Sequences are right-padded and no mask is passed: in a causal model a real token never sees what
stands to its right, so padding changes nothing, and attention keeps its fast causal path.

Shapes: B sequences, T the longest, H the width, V the vocabulary, N selected tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from rlhf.models.head import OwnHead, own_head, own_logits
from rlhf.models.precision import product_type, products
from rlhf.models.trunk import Trunk

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Up to this many probabilities (256 MiB of float32) are kept for the backward pass; beyond, they
# are computed again chunk by chunk.
KEEP_ELEMENTS = 2**26
CHUNK_ELEMENTS = 2**24
GROUP_TOKENS = (
    1024  # of sequences that share a pass: attention under their mask grows with the square
)
# Tokens of one branched pass: attention under a mask of its own grows with their square.
BRANCHED_TOKENS = 1024
ALIKE = 0.75  # rows of a batch are at least this share of its longest


def batches_by_length(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices, longest first, in batches for one forward pass each.

    A batch has at most ``max_tokens`` padded tokens (or one row), and no row shorter than
    ``ALIKE`` of its longest: on a CPU every padded token costs as much as a real one.
    """
    batches: list[list[int]] = []
    widest = 0
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fits = batches and widest * (len(batches[-1]) + 1) <= max_tokens
        if fits and lengths[i] >= ALIKE * widest:
            batches[-1].append(i)
        else:
            batches.append([i])
            widest = lengths[i]
    return batches


def pad_right(sequences: Sequence[torch.Tensor]) -> torch.Tensor:
    """Token ids [T_i] or hidden states [T_i, H] in one tensor; what fills up is never read."""
    return nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)


def hidden_states(model: PreTrainedModel, sequences: Sequence[torch.Tensor]) -> torch.Tensor:
    """Last hidden states [B, T, H], float32, of right-padded sequences; positions from 0."""
    trunk = getattr(model, "trunk", None)
    with products(model):
        if trunk is not None:
            return trunk.upper(pad_right([trunk.lower(one) for one in sequences])).float()
        ids = pad_right(sequences).to(next(model.parameters()).device)
        return model.base_model(input_ids=ids, use_cache=False).last_hidden_state.float()


def branched_hidden_states(
    model: PreTrainedModel, history: torch.Tensor, branches: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Hidden states of several continuations of one history, which is computed once.

    One row holds the history and then every branch; positions go on from the history in each, and
    a branch sees the history and itself. Exact in values and gradients. Only for models that take
    a mask of their own: see ``can_branch``.

    Args:
        model: a causal model.
        history: token ids [P], at least one.
        branches: token ids [L_i] of each continuation.

    Returns:
        Last hidden states [L_i, H] of each branch, float32.
    """
    sizes = [len(history), *map(len, branches)]
    ids = torch.cat([history, *branches])
    segment = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    starts = torch.tensor([0] + [len(history)] * len(branches))
    order = torch.cat([torch.arange(size) for size in sizes])
    positions = (starts[segment] + order)[None]
    visible = (segment[None, :] == segment[:, None]) | (segment[None, :] == 0)
    mask = (visible & torch.ones(len(ids), len(ids), dtype=torch.bool).tril())[None, None]
    device = next(model.parameters()).device
    layout = {"position_ids": positions.to(device), "attention_mask": mask.to(device)}
    trunk = getattr(model, "trunk", None)
    with products(model):
        if trunk is not None:
            hidden = trunk.upper(trunk.lower(ids, **layout)[None], **layout)
        else:
            ids, body = ids[None].to(device), model.base_model
            hidden = body(input_ids=ids, use_cache=False, **layout).last_hidden_state
    return list(hidden[0].float().split(sizes)[1:])


def can_branch(model: PreTrainedModel) -> bool:
    """Whether the model applies a boolean mask as it is given: eager attention would add it."""
    return Trunk.fits(model) and model.config._attn_implementation == "sdpa"


def states_between(
    model: PreTrainedModel,
    sequences: Sequence[torch.Tensor],
    prompts: Sequence[int],
    starts: Sequence[int],
    ends: Sequence[int],
) -> torch.Tensor:
    """Last hidden states at positions ``starts[i]:ends[i]`` of each sequence, joined to [N, H].

    Sequences with one prompt share one pass over it, on a CPU and where the architecture allows
    it; exact in values and gradients.

    Args:
        model: a causal model.
        sequences: token ids, unpadded.
        prompts: tokens of each sequence that others may begin with too, at most ``starts[i]``.
        starts: first position.
        ends: position after the last.
    """
    found: dict[int, torch.Tensor] = {}
    shared, alone = _who_shares(model, sequences, prompts)
    for rows in shared:
        length = prompts[rows[0]]
        branches = [sequences[i][length : ends[i]] for i in rows]
        parts = branched_hidden_states(model, sequences[rows[0]][:length], branches)
        for i, states in zip(rows, parts, strict=True):
            found[i] = states[starts[i] - length :]
    if alone:
        hidden = hidden_states(model, [sequences[i] for i in alone])
        for i, states in zip(alone, hidden, strict=True):
            found[i] = states[starts[i] : ends[i]]
    return torch.cat([found[i] for i in range(len(sequences))])


def batches_by_prompt(
    model: PreTrainedModel,
    sequences: Sequence[torch.Tensor],
    prompts: Sequence[int],
    max_tokens: int,
) -> list[list[int]]:
    """Indices in batches for ``states_between``: those with one prompt, others of like lengths."""
    shared, alone = _who_shares(model, sequences, prompts)
    batches = batches_by_length([len(sequences[i]) for i in alone], max_tokens)
    return shared + [[alone[i] for i in batch] for batch in batches]


def _who_shares(
    model: PreTrainedModel, sequences: Sequence[torch.Tensor], prompts: Sequence[int]
) -> tuple[list[list[int]], list[int]]:
    """Indices of sequences that share a pass over their prompt, and of those that stand alone.

    On a CPU: a GPU is kept busy by many rows at a time, even if some of it is done twice.
    """
    if not can_branch(model) or next(model.parameters()).device.type != "cpu":
        return [], list(range(len(sequences)))
    groups: dict[tuple[int, ...], list[list[int]]] = {}
    for i, (sequence, length) in enumerate(zip(sequences, prompts, strict=True)):
        found = groups.setdefault(tuple(sequence[:length].tolist()), [[]])
        tokens = length + sum(len(sequences[j]) - length for j in (*found[-1], i))
        if tokens > BRANCHED_TOKENS:
            found.append([])
        found[-1].append(i)
    parts = [part for key, found in groups.items() for part in found if key]
    shared = [part for part in parts if len(part) > 1]
    together = {i for part in shared for i in part}
    return shared, [i for i in range(len(sequences)) if i not in together]


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(h Wᵀ / τ) at given targets, without the [N, V] that autograd would keep twice."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, temperature, with_entropy, learn):
        vocabulary = weight.shape[0]
        chunk = max(1, CHUNK_ELEMENTS // vocabulary)
        keep = learn and any(ctx.needs_input_grad[:3])
        keep = keep and hidden.shape[0] * vocabulary <= KEEP_ELEMENTS
        logprobs, entropies, kept = [], [], []
        for h, t in zip(hidden.split(chunk), targets.split(chunk), strict=True):
            logits = _logits(h, weight, bias, temperature)
            normalizer = logits.logsumexp(-1, keepdim=True)
            logits -= normalizer
            logprobs.append(logits.gather(1, t[:, None]).squeeze(1))
            if keep or with_entropy:
                probabilities = logits.exp()
                if with_entropy:
                    entropies.append(-torch.einsum("nv,nv->n", probabilities, logits))
                if keep:
                    kept.append(probabilities)
        ctx.save_for_backward(hidden, weight, bias, targets, *kept)
        ctx.temperature, ctx.chunk = temperature, chunk
        entropy = torch.cat(entropies) if with_entropy else torch.zeros(0, device=hidden.device)
        ctx.mark_non_differentiable(entropy)
        return torch.cat(logprobs), entropy

    @staticmethod
    def backward(ctx, gradient, _entropy_gradient):
        hidden, weight, bias, targets, *kept = ctx.saved_tensors
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        d_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        for i, start in enumerate(range(0, hidden.shape[0], ctx.chunk)):
            rows = slice(start, start + ctx.chunk)
            h, t, g = hidden[rows], targets[rows], gradient[rows, None] / ctx.temperature
            if kept:
                probabilities = kept[i]
            else:
                probabilities = _logits(h, weight, bias, ctx.temperature).softmax(-1)
            d_logits = probabilities * -g
            d_logits.scatter_add_(1, t[:, None], g.to(d_logits.dtype))
            d_logits = d_logits.to(weight.dtype)
            torch.mm(d_logits, weight, out=d_hidden[rows])
            if d_weight is not None:
                d_weight.addmm_(d_logits.t(), h)
            if d_bias is not None:
                d_bias += d_logits.sum(0)
        return d_hidden, d_weight, d_bias, None, None, None, None


def _logits(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, temperature: float
) -> torch.Tensor:
    logits = nn.functional.linear(hidden, weight, bias).float()
    return logits.div_(temperature) if temperature != 1.0 else logits


def token_logprobs(
    model: PreTrainedModel,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    temperature: float = 1.0,
    with_entropy: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log probabilities of the given tokens, and the entropy at each.

    Args:
        model: a causal language model.
        hidden: [N, H], the hidden state *before* each target.
        targets: [N], token ids.
        temperature: logits are divided by this, as in sampling.
        with_entropy: also compute entropies (no gradient).

    Returns:
        Log probabilities [N] in nats, differentiable in the hidden states and the head; entropies
        [N] in nats, or [0].
    """
    own = own_head(model)
    if own is not None:
        return _own_token_logprobs(model, own, hidden, targets, temperature, with_entropy)
    head = model.get_output_embeddings()
    kind = product_type(model) or head.weight.dtype
    bias = None if head.bias is None else head.bias.to(kind)
    targets, learn = targets.to(hidden.device), torch.is_grad_enabled()
    return _TokenLogprobs.apply(
        hidden.to(kind), head.weight.to(kind), bias, targets, temperature, with_entropy, learn
    )


def _own_token_logprobs(
    model: PreTrainedModel,
    own: OwnHead,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    temperature: float,
    with_entropy: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``token_logprobs`` of a model that makes logits in a way of its own."""
    vocabulary = model.get_output_embeddings().weight.shape[0]
    again = torch.is_grad_enabled() and hidden.shape[0] * vocabulary > KEEP_ELEMENTS

    def piece(h: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs = (own_logits(model, own, h) / temperature).log_softmax(-1)
        entropy = hidden.new_zeros(0)
        if with_entropy:
            known = logprobs.detach()
            entropy = -(known.exp() * known).sum(-1)
        return logprobs.gather(1, t[:, None]).squeeze(1), entropy

    rows = max(1, CHUNK_ELEMENTS // vocabulary)
    pieces = [
        checkpoint(piece, h, t, use_reentrant=False) if again else piece(h, t)
        for h, t in zip(hidden.split(rows), targets.to(hidden.device).split(rows), strict=True)
    ]
    logprobs, entropies = zip(*pieces, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


def continuation_logprobs(
    model: PreTrainedModel,
    sequences: Sequence[torch.Tensor],
    starts: Sequence[int],
    temperature: float = 1.0,
    with_entropy: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log probabilities of each sequence's tokens from ``starts[i]`` on, all rows joined.

    Returns:
        Log probabilities [N], entropies [N] (or [0]), and the hidden states [N, H] that they come
        from: position p−1 for token p.
    """
    first, end = [s - 1 for s in starts], [len(x) - 1 for x in sequences]
    before = states_between(model, sequences, first, first, end)
    targets = torch.cat([x[s:] for x, s in zip(sequences, starts, strict=True)])
    logprobs, entropy = token_logprobs(model, before, targets, temperature, with_entropy)
    return logprobs, entropy, before


def sequence_logprobs(
    model: PreTrainedModel,
    sequences: Sequence[torch.Tensor],
    starts: Sequence[int],
    temperature: float,
    max_tokens: int,
) -> list[torch.Tensor]:
    """For each sequence, log probabilities of its tokens from ``starts[i]`` on, in nats.

    Args:
        model: a causal language model.
        sequences: token ids, unpadded.
        starts: for each the first token that counts, at least 1.
        temperature: logits are divided by this, as in sampling.
        max_tokens: padded tokens in one forward pass.
    """
    found: list[torch.Tensor] = [torch.empty(0)] * len(sequences)
    for rows in batches_by_prompt(model, sequences, [s - 1 for s in starts], max_tokens):
        chosen, begins = [sequences[i] for i in rows], [starts[i] for i in rows]
        logprobs, _, _ = continuation_logprobs(model, chosen, begins, temperature)
        sizes = [len(s) - b for s, b in zip(chosen, begins, strict=True)]
        for i, part in zip(rows, logprobs.cpu().split(sizes), strict=True):
            found[i] = part
    return found
