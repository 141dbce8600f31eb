"""Log probabilities and scores of many sequences, a batch of like lengths at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from rlhf.data.batching import batches_by_length
from rlhf.models import devices
from rlhf.models.backbone import Backbone, who_shares
from rlhf.models.roots import ReplyScorer, TokenScorer, from_starts

ALIKE = 0.75  # rows of a batch are at least this share of its longest


def sequence_logprobs(
    scorer: TokenScorer,
    sequences: Sequence[torch.Tensor],
    starts: Sequence[int],
    temperature: float,
    max_tokens: int,
    passes: Callable[[int], int] = int,
    forward: Callable[..., tuple[torch.Tensor, ...]] | None = None,
) -> list[torch.Tensor]:
    """For each sequence, log probabilities of its tokens from ``starts[i]`` on, in nats.

    Sequences with one prompt share a pass over it, others of like lengths share a batch.

    Args:
        scorer: the language model.
        sequences: token ids, unpadded.
        starts: for each the first token that counts, at least 1.
        temperature: logits are divided by this, as in sampling.
        max_tokens: padded tokens in one forward pass.
        passes: from the forward passes that are needed to those that are run: where a model is
            computed in lockstep, as many as on the rank that needs most.
        forward: called in place of ``scorer``, where an engine holds it.
    """
    order: list[int] = []
    values: list[torch.Tensor] = []
    prompts = [start - 1 for start in starts]
    shared, alone = _batches(scorer, sequences, prompts, max_tokens, passes)
    for rows in shared + alone:
        chosen = [sequences[i] for i in rows]
        places = from_starts(chosen, [starts[i] for i in rows])
        shared_by = [prompts[i] for i in rows]
        logprobs, *_ = (forward or scorer)(chosen, places, temperature, prompts=shared_by)
        order += rows
        values += logprobs.split([len(each) for each in places])
    # Where one was repeated to keep step with other ranks, the first counts.
    found = dict(zip(reversed(order), reversed(devices.fetched(values)), strict=True))
    return [found[i] for i in range(len(sequences))]


def score(
    scorer: ReplyScorer,
    sequences: Sequence[torch.Tensor],
    max_tokens: int = 4096,
    prompts: Sequence[int] | None = None,
    passes: Callable[[int], int] = int,
) -> torch.Tensor:
    """Raw scores [n] at the last token of each sequence.

    Sequences with one prompt share it, others of like lengths share a forward pass.

    Args:
        scorer: the reward model.
        sequences: token ids, query and response together, unpadded.
        max_tokens: padded tokens in one forward pass.
        prompts: tokens of each query, where some may be the same.
        passes: see ``sequence_logprobs``.
    """
    scores: dict[int, torch.Tensor] = {}
    prompts = prompts or [0] * len(sequences)
    shared, alone = _batches(scorer, sequences, prompts, max_tokens, passes)
    for rows in shared:
        length = prompts[rows[0]]
        replies = [sequences[i][length:] for i in rows]
        (found,) = scorer([sequences[rows[0]][:length]], [replies])
        for i, value in zip(rows, found, strict=True):
            scores[i] = value
    for rows in alone:
        (found,) = scorer([sequences[i][:0] for i in rows], [[sequences[i]] for i in rows])
        for i, value in zip(rows, found, strict=True):
            scores.setdefault(i, value)
    return torch.stack([scores[i] for i in range(len(sequences))])


def _batches(
    scorer: Backbone,
    sequences: Sequence[torch.Tensor],
    prompts: Sequence[int],
    max_tokens: int,
    passes: Callable[[int], int],
) -> tuple[list[list[int]], list[list[int]]]:
    """Indices in batches: those that share a prompt, and others of like lengths.

    At the end the shortest sequence is repeated until there are as many as ``passes`` wants.
    """
    # In one sequence those with one prompt share it anyhow, beside any others.
    apart = scorer.shares_prompts and not scorer.packs
    shared, alone = who_shares(sequences, prompts if apart else None)
    batches = batches_by_length([len(sequences[i]) for i in alone], max_tokens, alike=ALIKE)
    needed = len(shared) + len(batches)
    shortest = min(range(len(sequences)), key=lambda i: len(sequences[i]), default=0)
    repeated = [[shortest]] * (passes(needed) - needed)
    return shared, [[alone[i] for i in batch] for batch in batches] + repeated
