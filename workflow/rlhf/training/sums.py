"""Sums of measures, over micro-batches and over ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch

from rlhf.training import distributed

Measures = Mapping[str, torch.Tensor | float]


class Sums:
    """Sums by name, in float64; all ranks add the same names.

    Tensors stay where they are until a sum is asked for, and then move together: a GPU has its
    next work before it is asked for a number.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._waiting: list[tuple[str, torch.Tensor]] = []

    def add(self, measures: Measures, counts: bool = True) -> None:
        """Add one number to the sum of each name.

        Args:
            measures: name → number.
            counts: if not, 0 is added in its place: the name is known then.
        """
        for name, value in measures.items():
            if not counts:
                self._sums[name] += 0.0
            elif isinstance(value, torch.Tensor):
                self._waiting.append((name, value.detach()))
            else:
                self._sums[name] += value

    def over_ranks(self) -> Sums:
        """The sums over all ranks, in float64; the same on every rank."""
        sums = self._settled()
        names = sorted(sums)
        together = Sums()
        totals = distributed.total([sums[name] for name in names])
        together.add(dict(zip(names, totals, strict=True)))
        return together

    def means(self, count: float) -> dict[str, float]:
        """Each sum divided by ``count``."""
        return {name: value / count for name, value in self._settled().items()}

    def _settled(self) -> dict[str, float]:
        if self._waiting:
            values = torch.stack([value.double() for _, value in self._waiting]).tolist()
            for (name, _), value in zip(self._waiting, values, strict=True):
                self._sums[name] += value
            self._waiting.clear()
        return self._sums
