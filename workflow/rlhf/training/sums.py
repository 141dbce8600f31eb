"""Sums of measures, over micro-batches and over ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch

from rlhf.training import distributed


class Sums:
    """Sums by name. A rank may lack some, or all, of the names that others have."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)

    def add(self, measures: Mapping[str, torch.Tensor | float]) -> None:
        """Add one number to the sum of each name."""
        for name, value in measures.items():
            self._sums[name] += float(value)

    def over_ranks(self) -> Sums:
        """The sums over all ranks, in float64; the same on every rank."""
        names = sorted(set(distributed.gather(list(self._sums))))
        together = Sums()
        totals = distributed.total([self._sums[name] for name in names])
        together.add(dict(zip(names, totals, strict=True)))
        return together

    def means(self, count: float) -> dict[str, float]:
        """Each sum divided by ``count``."""
        return {name: value / count for name, value in self._sums.items()}
