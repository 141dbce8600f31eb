"""All pairs of the replies that a row ranks, and whether scores order them as people did."""

from __future__ import annotations

import math

import torch


def accuracy(scores: torch.Tensor) -> float:
    """Share of the pairs that the scores (best reply first) order rightly; a tie is not right."""
    return float((differences(scores) > 0).float().mean())


def kendall_tau(scores: torch.Tensor) -> float:
    """Agreement of the scores with the order of the replies, best first (τ-b, Kendall 1945).

    People's order has no ties, so τ-b is (right − wrong) / √(pairs · pairs without a tie): without
    tied scores twice the accuracy, minus 1. Scores that are all equal rank nothing: 0.
    """
    signs = differences(scores).sign()
    untied = int((signs != 0).sum())
    return float(signs.sum()) / math.sqrt(len(signs) * untied) if untied else 0.0


def differences(scores: torch.Tensor) -> torch.Tensor:
    """Better − worse for all C(k,2) pairs of one row's scores [k], best reply first."""
    better, worse = torch.triu_indices(len(scores), len(scores), offset=1)
    return (scores[better] - scores[worse]).detach()
