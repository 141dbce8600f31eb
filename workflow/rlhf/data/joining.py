"""Short conversations joined to longer training rows: Open-Assistant's mixing of samples.

The model sees a row's earlier conversations when it answers in a later one. There two short ones of
a batch are joined; here as many of a dataset as fit in a row.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.core.seeds import row_draws
from rlhf.data.labels import IGNORED

SAMPLES = "samples"  # column with the ids of a row's conversations


@dataclass(frozen=True)
class Joining:
    """Which conversations are joined.

    Attributes:
        shorter_than: tokens that a joined one has fewer of.
        probability: that such a one is joined.
        max_length: tokens of a row.
        seed: of the choice.
    """

    shorter_than: int
    probability: float
    max_length: int
    seed: int


def join_samples(
    samples: Iterable[Mapping[str, Any]], joining: Joining
) -> Iterator[dict[str, Any]]:
    """Rows with a column ``samples``; a joined one stands where its last conversation stood.

    Args:
        samples: of the view ``conversation``: ``id``, ``input_ids``, ``labels``.
        joining: which are joined.
    """
    waiting: list[Mapping[str, Any]] = []
    tokens = 0
    for sample in samples:
        length = len(sample["input_ids"])
        draw = row_draws(joining.seed, "mixing", sample["id"]).random()
        if length >= joining.shorter_than or draw >= joining.probability:
            yield named(sample)
            continue
        if tokens + length > joining.max_length:
            yield _joined(waiting)
            waiting, tokens = [], 0
        waiting.append(sample)
        tokens += length
    if waiting:
        yield _joined(waiting)


def named(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample that is a row by itself."""
    return {**sample, SAMPLES: [sample["id"]]}


def _joined(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row, called like its first sample.

    The first token of a later one is not learned: by itself it had no token before it either.
    """
    ids, labels = array("i"), array("i")
    for number, sample in enumerate(samples):
        ids.extend(sample["input_ids"])
        own = array("i", sample["labels"])
        if number:
            own[0] = IGNORED
        labels.extend(own)
    return {
        "id": samples[0]["id"],
        "input_ids": ids,
        "labels": labels,
        SAMPLES: [sample["id"] for sample in samples],
    }
