"""How a reward model's scores agree with people's preferences, and with the length of replies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf.evaluation.statistics import wilson

# How the better reply's tokens compare with the worse one's.
LENGTHS = ("longer reply better", "shorter reply better", "equal length")


@dataclass(frozen=True)
class ScoredRow:
    """The replies of a row of the preference view.

    Attributes:
        dataset: where the row is from.
        scores: raw scores [k], best reply first.
        tokens: length [k] of each reply, in tokens.
    """

    dataset: str
    scores: Sequence[float]
    tokens: Sequence[int]


def figures(rows: Sequence[ScoredRow]) -> dict[str, float]:
    """One number for each kind of agreement, for the metrics; empty without rows."""
    if not rows:
        return {}
    differences = [pair.difference for pair in _pairs(rows)]
    return {
        "spearman": float(np.mean([spearman(row.scores) for row in rows])),
        "calibration_error": calibration_error(differences),
        "length_correlation": length_correlation(rows),
    }


def tables(rows: Sequence[ScoredRow]) -> dict[str, list[dict[str, Any]]]:
    """Agreement by dataset, and by which reply is longer, for ``evaluation.json``.

    Returns:
        ``datasets`` and ``lengths``: for each ``name``, its ``pairs``, the ``accuracy`` on them
        (ties are not right) and the ends ``low`` and ``high`` of its 95 % Wilson interval. What no
        pair is of is left out.
    """
    pairs = list(_pairs(rows))
    return {
        "datasets": _table(pairs, lambda pair: pair.dataset, sorted({one.dataset for one in rows})),
        "lengths": _table(pairs, lambda pair: LENGTHS[pair.longer], LENGTHS),
    }


def spearman(scores: ArrayLike) -> float:
    """Spearman's ρ between scores [k], best reply first, and people's order.

    Tied scores share the mean of their ranks; scores that are all equal rank nothing: 0.
    """
    values = np.asarray(scores, dtype=np.float64)
    return _pearson(_ranks(values), np.arange(len(values), 0, -1.0))


def calibration_error(differences: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error of σ(s⁺ − s⁻) (Guo et al. 2017, arXiv 1706.04599, section 2).

    The model prefers the reply with the higher score, with the confidence σ(|difference|); a tie
    is right half of the time. The error is the distance between mean confidence and share that is
    right in each of ``bins`` equal parts of 0.5 to 1, weighted by their pairs.

    Args:
        differences: [n] score of the better reply − score of the worse one.
        bins: number of parts.
    """
    signed = np.asarray(differences, dtype=np.float64)
    confidence = 1 / (1 + np.exp(-np.abs(signed)))
    right = (np.sign(signed) + 1) / 2
    if not np.isfinite(confidence).all():
        return float("nan")
    part = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    gaps = np.bincount(part, weights=confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(signed))


def length_correlation(rows: Sequence[ScoredRow]) -> float:
    """Pearson's correlation of a reply's score with its length, both less their mean in the row.

    So it is 0 where longer replies to one prompt have no other scores than shorter ones, however
    long the replies to other prompts are. 0, too, where either does not vary.
    """
    parts = [(np.asarray(row.scores, np.float64), np.asarray(row.tokens, np.float64))
             for row in rows]  # fmt: skip
    scores, tokens = (
        np.concatenate([values - values.mean() for values in kind])
        for kind in zip(*parts, strict=True)
    )
    return _pearson(scores, tokens)


@dataclass(frozen=True)
class _Pair:
    """A better reply and a worse one: the difference of their scores, and which is longer."""

    dataset: str
    difference: float
    longer: int  # of LENGTHS


def _pairs(rows: Iterable[ScoredRow]) -> Iterator[_Pair]:
    for row in rows:
        for better, worse in combinations(range(len(row.scores)), 2):
            tokens = row.tokens[better] - row.tokens[worse]
            longer = 0 if tokens > 0 else 1 if tokens < 0 else 2
            yield _Pair(row.dataset, row.scores[better] - row.scores[worse], longer)


def _table(
    pairs: Iterable[_Pair], name_of: Callable[[_Pair], str], names: Sequence[str]
) -> list[dict[str, Any]]:
    right: dict[str, list[bool]] = defaultdict(list)
    for pair in pairs:
        right[name_of(pair)].append(pair.difference > 0)
    found = []
    for name in names:
        if known := right.get(name):
            accuracy = sum(known) / len(known)
            low, high = wilson(accuracy, len(known))
            found.append({"name": name, "pairs": len(known), "accuracy": accuracy,
                          "low": low, "high": high})  # fmt: skip
    return found


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of theirs."""
    below = (values[:, None] > values).sum(1, dtype=np.float64)
    equal = (values[:, None] == values).sum(1, dtype=np.float64)
    ranks: NDArray[np.float64] = below + (equal + 1) / 2
    return ranks


def _pearson(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Correlation of two lists of numbers; 0 where either does not vary."""
    left, right = one - one.mean(), other - other.mean()
    size = float(np.sqrt((left**2).sum() * (right**2).sum()))
    return float((left * right).sum()) / size if size else 0.0
