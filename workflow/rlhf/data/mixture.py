"""Tokenized sets as training reads them: an order that repeats, batches of like lengths.

The order of an epoch follows from seed and epoch alone. All ranks know it whole and share out each
global batch by one plan, so no row is lost or taken twice, whatever their number, and a run goes on
in the middle of an epoch from its step alone.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf.core.digest import digest_text
from rlhf.core.seeds import generator
from rlhf.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Share:
    """What is taken from one set.

    Attributes:
        fraction: share of the training rows, drawn anew in every epoch.
        size: so many training rows instead.
        weight: the rows of all sets together are shared out by weight; None: they are not.
        max_validation: held-out rows used at most, chosen by a hash of their ids.
    """

    fraction: float = 1.0
    size: int | None = None
    weight: float | None = None
    max_validation: int | None = None


def rows_per_epoch(sizes: Mapping[str, int], shares: Mapping[str, Share]) -> dict[str, int]:
    """Training rows that one epoch draws from each set.

    Args:
        sizes: dataset name → training rows.
        shares: dataset name → what is taken; without an entry, everything.

    Raises:
        ConfigError: a ``size`` is larger than its set.
    """
    shares = {name: shares.get(name, Share()) for name in sizes}
    rows = {name: _rows(name, size, shares[name]) for name, size in sizes.items()}
    weights = {name: shares[name].weight or 0.0 for name, size in sizes.items() if size}
    total, weighed = sum(rows.values()), sum(weights.values())
    if not weighed:
        return rows
    # The largest remainders get what rounding down leaves, so that the epoch is as long as said.
    parts = {name: total * weight / weighed for name, weight in weights.items()}
    shared = {name: int(part) for name, part in parts.items()}
    by_remainder = sorted(parts, key=lambda name: (shared[name] - parts[name], name))
    for name in by_remainder[: total - sum(shared.values())]:
        shared[name] += 1
    return dict.fromkeys(rows, 0) | shared


def _rows(name: str, size: int, share: Share) -> int:
    if share.size is None:
        return max(1, round(size * share.fraction)) if size else 0
    if share.size > size:
        raise ConfigError(
            f"The dataset {name!r} has {size} rows for training, not {share.size}.",
            where=f"data.{name}.size",
            expected=f"at most {size}",
            hint="lower `size`, or leave it out to take all; `weight` repeats rows",
        )
    return share.size


class Mixture:
    """One split of several tokenized sets, memory-mapped, and the share taken from each.

    Args:
        folders: dataset name → folder that holds the splits.
        shares: dataset name → what is taken; without an entry, everything.
        split: ``train`` or ``validation``.
        left_out: dataset name → ids of rows that are as if they were not there.

    Raises:
        ConfigError: a ``size`` is larger than its set.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        shares: Mapping[str, Share],
        split: str,
        left_out: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        from datasets import load_from_disk

        self._names = sorted(folders)
        self._sets = [load_from_disk(str(folders[name] / split)) for name in self._names]
        limits = {name: share.max_validation for name, share in shares.items()}
        self._kept = [
            _kept(
                one,
                (left_out or {}).get(name, ()),
                limits.get(name) if split == "validation" else None,
            )
            for name, one in zip(self._names, self._sets, strict=True)
        ]
        self._offsets = np.cumsum([0] + [len(kept) for kept in self._kept])
        self._shares = shares if split == "train" else {}
        self.epoch_rows = rows_per_epoch(self.sizes, self._shares)

    def __len__(self) -> int:
        return int(self._offsets[-1])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The columns of a row, and ``dataset``: an ``id`` is one only within its set."""
        which = int(np.searchsorted(self._offsets, index, side="right")) - 1
        row = self._sets[which][int(self._kept[which][index - self._offsets[which]])]
        return row | {"dataset": self._names[which]}

    def by_hash(self, count: int) -> list[dict[str, Any]]:
        """At most ``count`` rows, chosen by a hash of their ids over all sets together."""
        order = [
            (digest_text(row_id), int(offset) + place)
            for one, kept, offset in zip(self._sets, self._kept, self._offsets, strict=False)
            for place, row_id in enumerate(_ids(one, kept))
        ]
        return [self[place] for _, place in sorted(order)[:count]]

    @property
    def sizes(self) -> dict[str, int]:
        """Dataset name → its rows."""
        return {name: len(kept) for name, kept in zip(self._names, self._kept, strict=True)}

    def true_share(self, column: str) -> float | None:
        """Share of an epoch's rows for which a column of booleans says true.

        None: the sets have no such column, or there are no rows.
        """
        if not self.rows_per_epoch or any(column not in one.column_names for one in self._sets):
            return None
        shares = [
            float(np.mean(one.data.column(column).take(kept).to_pylist())) if len(kept) else 0.0
            for one, kept in zip(self._sets, self._kept, strict=True)
        ]
        rows = [self.epoch_rows[name] for name in self._names]
        return sum(map(operator.mul, shares, rows)) / self.rows_per_epoch

    def without_column(self, column: str) -> list[str]:
        """Names of the sets whose rows lack a column."""
        pairs = zip(self._names, self._sets, strict=True)
        return [name for name, one in pairs if column not in one.column_names]

    @property
    def rows_per_epoch(self) -> int:
        """Rows drawn in one epoch."""
        return sum(self.epoch_rows.values())

    def lengths(self) -> np.ndarray:
        """Tokens of every row [len(self)], as integers; a preference's history counts once."""
        parts = [
            _lengths(one.data.table)[kept] for one, kept in zip(self._sets, self._kept, strict=True)
        ]
        return np.concatenate(parts)

    def order(self, seed: int, epoch: int, batch: int = 1, grouping: int = 0) -> np.ndarray:
        """Row indices of one epoch: each set's share, drawn anew, all shuffled together.

        A share larger than its set is the whole set, once or more, and a part without repeats.

        Args:
            seed: seed of the order.
            epoch: counts from 0.
            batch: rows of a global batch.
            grouping: sort the rows of so many batches by length, then shuffle the batches; 0: no.
        """
        random = generator(seed, "order of an epoch", epoch)
        drawn = [
            offset + _draw(random, len(kept), self.epoch_rows[name])
            for name, kept, offset in zip(self._names, self._kept, self._offsets, strict=False)
        ]
        order = random.permutation(np.concatenate(drawn))
        return _grouped(order, self.lengths(), batch, grouping, random) if grouping else order


def _ids(one: Any, kept: np.ndarray) -> list[str]:
    return one.data.column("id").take(kept).to_pylist()


def _kept(one: Any, left_out: Collection[str], most: int | None) -> np.ndarray:
    """Indices of the rows of a set that are used, ascending."""
    kept = np.arange(len(one))
    if not left_out and (most is None or most >= len(one)):
        return kept
    ids = one.data.column("id").to_pylist()
    chosen = [i for i in kept if ids[i] not in left_out]
    if most is not None:
        chosen = sorted(chosen, key=lambda i: digest_text(ids[i]))[:most]
    return np.array(sorted(chosen), dtype=kept.dtype)


def _draw(random: np.random.Generator, size: int, rows: int) -> np.ndarray:
    """``rows`` of ``range(size)``; none twice before all are there once."""
    if not size:
        return np.arange(0)
    return np.concatenate(
        [random.permutation(size)[: rows - start] for start in range(0, rows, size)]
        or [np.arange(0)]
    )


def _grouped(
    order: np.ndarray, lengths: np.ndarray, batch: int, span: int, random: np.random.Generator
) -> np.ndarray:
    """The same rows in batches of like lengths; what fills no batch stays at the end."""
    whole = len(order) // batch * batch
    batches: list[np.ndarray] = []
    for start in range(0, whole, batch * span):
        rows = order[start : min(start + batch * span, whole)]
        rows = rows[np.argsort(lengths[rows], kind="stable")]  # equals stay in random order
        batches.extend(rows.reshape(-1, batch))
    shuffled = [batches[i] for i in random.permutation(len(batches))]
    return np.concatenate([*shuffled, order[whole:]])


def _lengths(table: pa.Table) -> np.ndarray:
    """Tokens of every row of a tokenized set, from the lists' offsets alone."""
    total = np.zeros(len(table), dtype=np.int64)
    for name in {"input_ids", "history_ids", "reply_ids"}.intersection(table.column_names):
        parts = [_list_lengths(chunk) for chunk in table.column(name).chunks]
        total += np.concatenate(parts) if parts else 0
    return total


def _list_lengths(lists: pa.Array) -> np.ndarray:
    """Numbers in each list, or in each list of lists."""
    import pyarrow.compute as pc

    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    if not hasattr(lists.type.value_type, "value_type"):
        return lengths
    inner = np.cumsum([0, *pc.list_value_length(pc.list_flatten(lists)).to_numpy()])
    ends = np.cumsum(lengths)
    return inner[ends] - inner[ends - lengths]
