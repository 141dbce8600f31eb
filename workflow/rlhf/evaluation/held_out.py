"""A reward model's scores of held-out replies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from rlhf.algorithms import pairs
from rlhf.algorithms.reward import RewardObjective, score_rows
from rlhf.training.engine.protocol import Forward
from rlhf.training.loop import map_rows


def score_differences(by_row: Iterable[torch.Tensor]) -> list[float]:
    """Score of the better reply − that of the worse one, for every pair of every row."""
    return [one for scores in by_row for one in pairs.differences(scores).tolist()]


def score_held_out(
    scorer: Forward,
    objective: RewardObjective,
    rows: Iterable[dict[str, Any]],
    max_tokens: int,
) -> list[torch.Tensor]:
    """Raw scores [k] of each row's replies, best first; the ranks share the work, all know all.

    Args:
        scorer: a ``ReplyScorer``, or an engine around one.
        objective: knows the shapes of rows.
        rows: rows of the preference view.
        max_tokens: padded tokens in one forward pass.
    """

    def compute(chosen: list[dict[str, Any]]) -> list[torch.Tensor]:
        return score_rows(scorer, chosen)

    return map_rows(compute, objective.shape, rows, max_tokens)
