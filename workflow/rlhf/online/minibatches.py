"""Which responses share an optimizer step, and which of them a forward pass.

A rank has whole prompts, with all k responses to each: its responses are numbered prompt by prompt,
those to its prompt p from p·k on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np

from rlhf.data.batching import batches_by_length


def places_of(prompts: int, k: int, rank: int, ranks: int) -> list[int]:
    """Places in the global batch of this rank's responses: every ``ranks``-th prompt is its own.

    Args:
        prompts: prompts of the global batch.
        rank: this rank.
        ranks: number of ranks.
        k: responses to each prompt.
    """
    return [prompt * k + i for prompt in range(rank, prompts, ranks) for i in range(k)]


def minibatches(
    places: Sequence[int], k: int, size: int, count: int, random: np.random.Generator
) -> list[list[int]]:
    """This rank's responses in ``count`` shuffled minibatches of ``size`` over all ranks.

    The prompts of each rank are shuffled and dealt out to the minibatches in the order of the
    global batch, so that a minibatch has exactly its size over all ranks, and equal shares of them
    as far as that is possible.

    Args:
        places: places in the global batch of this rank's responses.
        k: responses to each prompt.
        size: responses in a minibatch.
        count: minibatches.
        random: this rank's stream.
    """
    parts: list[list[int]] = [[] for _ in range(count)]
    prompts = random.permutation(len(places) // k).tolist()
    order = [prompt * k + i for prompt in prompts for i in range(k)]
    for place, response in zip(places, order, strict=True):
        parts[place // size].append(response)
    return parts


def micro_batches_by_prompt(
    responses: Iterable[int], lengths: Sequence[int], k: int, max_tokens: int
) -> list[list[int]]:
    """Responses in groups for one forward pass each: those to one prompt together, where they fit.

    Args:
        responses: of one minibatch.
        lengths: tokens of each of the rank's sequences, prompt and response.
        k: responses to each prompt.
        max_tokens: padded tokens of a group, or one response.
    """
    parts = [
        part
        for _, same_prompt in groupby(sorted(responses), key=lambda i: i // k)
        for part in batches_by_length(lengths, max_tokens, indices=list(same_prompt))
    ]
    costs = [len(part) * max(lengths[i] for i in part) for part in parts]
    groups = batches_by_length(costs, max_tokens)
    return [[i for place in places for i in parts[place]] for places in groups]
