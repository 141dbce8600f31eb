"""Groups of responses: those to one prompt."""

from __future__ import annotations

import torch

from rlhf.online.rewards import ROUNDING


def differ(groups: torch.Tensor) -> torch.Tensor:
    """Whether the values of each group [g, k] differ by more than rounding does: [g] bool."""
    spread = groups.amax(1) - groups.amin(1)
    return spread > ROUNDING * groups.abs().amax(1)
