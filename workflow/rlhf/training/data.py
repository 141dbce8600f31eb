"""Tokenized sets as training reads them: an order that repeats, batches of like lengths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


class Mixture:
    """One split of several tokenized sets, memory-mapped, and the share taken from each.

    Args:
        folders: dataset name → folder that holds the splits.
        fractions: dataset name → share of the rows, drawn anew in every epoch.
        split: ``train`` or ``validation``.
    """

    def __init__(
        self, folders: Mapping[str, Path], fractions: Mapping[str, float], split: str
    ) -> None:
        from datasets import load_from_disk

        self._names = sorted(folders)
        self._sets = [load_from_disk(str(folders[name] / split)) for name in self._names]
        self._fractions = [fractions[name] for name in self._names]
        self._offsets = np.cumsum([0] + [len(one) for one in self._sets])

    def __len__(self) -> int:
        return int(self._offsets[-1])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The columns of a row, and ``dataset``: an ``id`` is one only within its set."""
        which = int(np.searchsorted(self._offsets, index, side="right")) - 1
        row = self._sets[which][int(index - self._offsets[which])]
        return row | {"dataset": self._names[which]}

    @property
    def rows_per_epoch(self) -> int:
        """Rows drawn in one epoch."""
        return sum(self._shares())

    def _shares(self) -> list[int]:
        pairs = zip(self._sets, self._fractions, strict=True)
        return [max(1, round(len(one) * f)) if len(one) else 0 for one, f in pairs]

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Row indices of one epoch: each set's share without replacement, all shuffled together."""
        random = np.random.default_rng([seed, epoch])
        drawn = [
            offset + random.permutation(len(one))[:share]
            for one, share, offset in zip(self._sets, self._shares(), self._offsets, strict=False)
        ]
        return random.permutation(np.concatenate(drawn))


def micro_batches(
    rows: Sequence[int], costs: Mapping[int, int] | Sequence[int], max_tokens: int
) -> Iterator[list[int]]:
    """Rows, longest first, in groups of at most ``max_tokens`` padded tokens (or one row).

    Args:
        rows: row indices of one rank's part of a global batch.
        costs: row index → tokens.
        max_tokens: rows × longest of a group stays below this.
    """
    group: list[int] = []
    for row in sorted(rows, key=lambda row: (-costs[row], row)):
        if group and costs[group[0]] * (len(group) + 1) > max_tokens:
            yield group
            group = []
        group.append(row)
    if group:
        yield group
