"""Prompts whose responses all have the same reward are replaced by further ones.

Such a group teaches nothing: its advantages are 0 (DAPO, Yu et al. 2025, arXiv 2503.14476, section
3.2). A group keeps its place in the batch, and so its rank, whichever prompt it is of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from rlhf.online.groups import differ
from rlhf.online.rollout import Replaced, Rollout
from rlhf.online.terms import Scores
from rlhf.training import distributed

# From places of groups in the batch and the round to this rank's responses there.
Draw = Callable[[Sequence[int], int], Rollout]
# From responses to what the reward says of them, and what they pay for their ends and lengths [n].
Score = Callable[[Rollout], tuple[Scores, torch.Tensor]]


@dataclass(frozen=True)
class _Group:
    """The responses to one prompt, with their scores."""

    responses: Rollout
    scores: Scores
    differs: bool


def draw_groups(
    draw: Draw, score: Score, prompts: int, k: int, max_rounds: int
) -> tuple[Rollout, Scores]:
    """This rank's responses and their scores; groups of equal rewards are replaced.

    Where rounds are used up, the last group that was drawn for a place stays, so that a batch
    always has its size. All ranks call this together.

    Args:
        draw: samples responses.
        score: scores them.
        prompts: groups of the batch, on all ranks.
        k: responses of a group.
        max_rounds: rounds of sampling, at most.
    """
    rank, ranks = distributed.rank(), distributed.world_size()
    places, rounds, dropped = list(range(prompts)), 0, 0
    tokens = 0  # of groups of this rank that were replaced
    groups: dict[int, _Group] = {}
    while places and rounds < max_rounds:
        dropped += len(places) if rounds else 0
        drawn = draw(places, rounds)
        own = [place for place in places if place % ranks == rank]
        # A rank with nothing new scores what it has: models in slices are computed by all at once.
        scores, penalties = score(drawn if own else groups[rank].responses)
        for i, place in enumerate(own):
            if place in groups:
                tokens += sum(map(len, groups[place].responses.sequences))
            rows = slice(i * k, (i + 1) * k)
            said = scores.part(rows)
            groups[place] = _Group(drawn.part(rows), said, _differ(said, penalties[rows]))
        places = sorted(distributed.gather([one for one in own if not groups[one].differs]))
        rounds += 1
    (lost,) = distributed.total([tokens])
    mine = [groups[place] for place in sorted(groups)]
    whole = Rollout.joined([group.responses for group in mine])
    replaced = Replaced(rounds, dropped, len(places), int(lost))
    return replace(whole, replaced=replaced), Scores.joined([group.scores for group in mine])


def _differ(scores: Scores, penalties: torch.Tensor) -> bool:
    """Whether the rewards of a group differ in anything that they are made of."""
    parts = [scores.raw, penalties]  # [k] each
    if scores.of_tokens is not None:
        parts.append(scores.of_tokens)
    return bool(differ(torch.stack(parts)).any())
