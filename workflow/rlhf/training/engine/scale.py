"""Dynamic loss scaling: what keeps gradients in float16's range.

float16 holds nothing below 6e-8 and nothing above 65,504. The loss is multiplied before a backward
pass, and gradients are divided by the same factor, in float32, before they are clipped: small ones
do not vanish on their way through the layers. Where one becomes infinite the update is left out
and the factor halved; after many updates without that, it is doubled (Micikevicius et al. 2018,
arXiv 1710.03740, section 3.2). The numbers are those of ``torch.amp.GradScaler``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from rlhf.models.backbone import backbones

INITIAL, MINIMUM, MAXIMUM = 2.0**16, 1.0, 2.0**24
INTERVAL = 2000  # updates without an overflow before the factor is doubled


@dataclass
class LossScale:
    """The factor, and how it came about; the same on every rank, for all know the global norm.

    Attributes:
        factor: what losses are multiplied by: a power of two, so nothing is rounded.
        since: updates since it last changed.
        skipped: updates that were left out, in the whole run.
        overflowed: whether the last update was.
        exhausted: whether it was although the factor could not be smaller.
    """

    factor: float
    since: int = 0
    skipped: int = 0
    overflowed: bool = False
    exhausted: bool = False

    @classmethod
    def of(cls, root: nn.Module) -> LossScale | None:
        """For a root whose matrix products are float16; None: others need none."""
        narrow = any(backbone.product_dtype is torch.float16 for backbone in backbones(root))
        return cls(INITIAL) if narrow else None

    def unscale(self, parameters: Iterable[nn.Parameter]) -> None:
        """Divide the gradients by the factor, in place."""
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(1 / self.factor)

    def update(self, norm: float) -> None:
        """Choose the next factor.

        Args:
            norm: of the gradients, over all ranks; if it is not finite nothing was updated.
        """
        self.overflowed = not math.isfinite(norm)
        self.exhausted = self.overflowed and self.factor <= MINIMUM
        self.since += 1
        if self.overflowed:
            self.skipped += 1
            self.factor, self.since = max(MINIMUM, self.factor / 2), 0
        elif self.since == INTERVAL:
            self.factor, self.since = min(MAXIMUM, self.factor * 2), 0

    def figures(self) -> dict[str, float]:
        """For the metrics of a step."""
        return {"loss_scale": self.factor, "skipped_steps": self.skipped}

    def state(self) -> dict[str, Any]:
        """What to save."""
        return asdict(self)
