"""Groups of responses: those to one prompt."""

from __future__ import annotations

import torch

from rlhf.online.rewards import ROUNDING


def differ(groups: torch.Tensor) -> torch.Tensor:
    """Whether the values of each group [g, k] differ by more than rounding does: [g] bool.

    One that is infinite or not a number differs, so that it is not lost before it is noticed.
    """
    spread = groups.amax(1) - groups.amin(1)
    return ~torch.isfinite(spread) | (spread > ROUNDING * groups.abs().amax(1))
