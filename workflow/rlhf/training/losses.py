"""The supervised objectives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F


def ranking_loss(scores: Sequence[torch.Tensor], l2: float) -> torch.Tensor:
    """Sum over rows of the mean over all C(k,2) pairs of −log σ(s⁺ − s⁻) + l2·½(s⁺² + s⁻²).

    Args:
        scores: per row [k], best reply first; k may differ.
        l2: weight of the term that keeps scores near 0 (Open-Assistant's reward loss).
    """
    losses = []
    for row in scores:
        better, worse = torch.triu_indices(len(row), len(row), offset=1, device=row.device)
        positive, negative = row[better], row[worse]
        loss = -F.logsigmoid(positive - negative).mean()
        losses.append(loss + l2 * 0.5 * (positive**2 + negative**2).mean())
    return torch.stack(losses).sum()
