"""Rows that rank k replies to one history: their size, their pairs, and how scores agree."""

from __future__ import annotations

from typing import Any

import torch


def shape(row: dict[str, Any], branches: bool) -> tuple[int, int]:
    """Rows that a row takes in a padded batch, and the tokens of each.

    Args:
        row: of the preference view.
        branches: whether its replies share one pass over their history, in one long row; otherwise
            each stands after the history in a row of its own.
    """
    history, replies = len(row["history_ids"]), [len(ids) for ids in row["reply_ids"]]
    if branches:
        return 1, history + sum(replies)
    return len(replies), history + max(replies)


def split(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The better's and the worse's value in all C(k,2) pairs of one row's [k], best reply first."""
    better, worse = torch.triu_indices(len(values), len(values), offset=1, device=values.device)
    return values[better], values[worse]


def accuracy(scores: torch.Tensor) -> torch.Tensor:
    """Share of the pairs that the scores (best reply first) order rightly; a tie is not right.

    Float64, on the scores' device.
    """
    return (differences(scores) > 0).float().mean().double()


def kendall_tau(scores: torch.Tensor) -> torch.Tensor:
    """Agreement of the scores with the order of the replies, best first (τ-b, Kendall 1945).

    People's order has no ties, so τ-b is (right − wrong) / √(pairs · pairs without a tie): without
    tied scores twice the accuracy, minus 1. Scores that are all equal rank nothing: 0.
    Float64, on the scores' device.
    """
    signs = differences(scores).sign()
    untied = (signs != 0).sum().clamp(min=1)  # without any, the sum above it is 0
    return signs.sum().double() / (len(signs) * untied).double().sqrt()


def differences(scores: torch.Tensor) -> torch.Tensor:
    """Better − worse for all C(k,2) pairs of one row's scores [k], best reply first."""
    better, worse = split(scores.detach())
    return better - worse
