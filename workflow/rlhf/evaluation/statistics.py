"""Means with honest intervals, and paired comparisons (numpy alone)."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf.core.seeds import generator

DRAWS_AT_ONCE = 2**22  # bounds the bootstrap's memory to some 100 MB for any number of clusters
NORMAL_95 = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its confidence interval, in the unit of the values."""

    mean: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """``{"mean", "low", "high"}``, ready for JSON."""
        return asdict(self)


def bootstrap_mean(
    values: ArrayLike,
    seed: int,
    resamples: int = 10_000,
    level: float = 0.95,
    groups: ArrayLike | None = None,
) -> Interval:
    """Mean of ``values`` with a percentile bootstrap interval.

    Samples of one prompt are not independent, so whole groups are drawn (the cluster bootstrap of
    Field and Welsh, 2007): treating them as independent makes intervals too narrow. A resample's
    mean weighs every value alike, whatever the sizes of the groups drawn.

    Args:
        values: [n] finite numbers.
        seed: makes the interval reproducible.
        resamples: number of bootstrap resamples.
        level: confidence level, between 0 and 1.
        groups: [n] cluster of each value (its prompt); each value alone when absent.

    Returns:
        The mean and the interval; with a single group the interval is the mean itself.

    Raises:
        ValueError: no values, a value that is not finite, or ``groups`` of another length.
    """
    data = _vector(values)
    sums, sizes = _cluster(data, groups)
    clusters = len(sums)
    rng = generator(seed, "bootstrap")
    means = np.empty(resamples)
    rows = max(1, DRAWS_AT_ONCE // clusters)
    for start in range(0, resamples, rows):
        stop = min(start + rows, resamples)
        drawn = rng.integers(0, clusters, size=(stop - start, clusters), dtype=np.int32)
        means[start:stop] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(data.mean()), float(low), float(high))


def paired_difference(
    first: ArrayLike,
    second: ArrayLike,
    seed: int,
    resamples: int = 10_000,
    level: float = 0.95,
    groups: ArrayLike | None = None,
) -> Interval:
    """Mean of ``first − second``, value by value, with its bootstrap interval.

    Args:
        first: [n] figures of one model.
        second: [n] figures of the other on the same prompts, in the same order.
        seed: as in `bootstrap_mean`, like the arguments after it.
        resamples: number of bootstrap resamples.
        level: confidence level.
        groups: [n] cluster of each pair.

    Raises:
        ValueError: the lengths differ, or as in `bootstrap_mean`.
    """
    left, right = _pair(first, second)
    return bootstrap_mean(left - right, seed, resamples, level, groups)


def win_rate(
    first: ArrayLike,
    second: ArrayLike,
    seed: int,
    resamples: int = 10_000,
    level: float = 0.95,
    groups: ArrayLike | None = None,
) -> Interval:
    """Share of pairs where ``first`` is greater, a tie counting one half, with its interval.

    Arguments and errors are those of `paired_difference`; the result lies in 0..1.
    """
    left, right = _pair(first, second)
    return bootstrap_mean((np.sign(left - right) + 1) / 2, seed, resamples, level, groups)


def mean_over_seeds(values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean over seeds and prompts with an interval for other seeds and other prompts.

    Seeds and prompts are taken for samples of all seeds and of all prompts, crossed with one
    another: value = mean + effect of the seed + effect of the prompt + rest. With the variance v_s
    of the mean of S means of seeds, v_p of P means of prompts, and v_r of the rest, which is in
    both, half the interval is √(t²·(v_s − v_r) + t²·v_p), each t being Student's quantile with
    S − 1 or P − 1 degrees of freedom (Graybill and Wang 1980). A bootstrap would be too narrow:
    three seeds have ten different resamples, with two thirds of the variance.

    Args:
        values: [S, P] finite numbers: the mean of a seed's samples for a prompt, the same prompts
            for all seeds.
        level: confidence level, between 0 and 1.

    Raises:
        ValueError: fewer than two seeds, no prompts, or a value that is not finite.
    """
    cells = np.asarray(values, dtype=np.float64)
    if cells.ndim != 2 or len(cells) < 2 or not cells.size:
        raise ValueError(f"expected seeds × prompts, two seeds or more, got shape {cells.shape}")
    if not np.isfinite(cells).all():
        raise ValueError("a value is not finite")
    share, mean = (1 + level) / 2, float(cells.mean())
    of_seeds, of_prompts = cells.mean(axis=1), cells.mean(axis=0)
    rest = cells - of_seeds[:, None] - of_prompts + mean
    freedom = (len(of_seeds) - 1) * max(1, len(of_prompts) - 1)
    twice = (rest**2).sum() / freedom / cells.size
    square = student_quantile(share, len(of_seeds) - 1) ** 2 * max(0.0, _of_mean(of_seeds) - twice)
    if len(of_prompts) > 1:
        square += student_quantile(share, len(of_prompts) - 1) ** 2 * _of_mean(of_prompts)
    half = float(np.sqrt(square))
    return Interval(mean, mean - half, mean + half)


def _of_mean(values: NDArray[np.float64]) -> float:
    """Variance of the mean of independent values."""
    return float(values.var(ddof=1)) / len(values)


@functools.cache
def student_quantile(share: float, freedom: int) -> float:
    """Quantile of Student's t distribution.

    With t = √ν tan θ the density is that of cosᵛ⁻¹ θ, which is summed on a fine grid.

    Args:
        share: between 0.5 and 1.
        freedom: degrees of freedom ν ≥ 1.
    """
    widest = min(np.pi / 2, 40 / np.sqrt(freedom))  # beyond lies less than can be told from 0
    angles = np.linspace(0, widest, 20_001)
    density = np.cos(angles) ** (freedom - 1)
    total = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    angle = np.interp(2 * share - 1, total / total[-1], angles)
    return float(np.sqrt(freedom) * np.tan(angle))


def repetition(token_ids: Sequence[int], n: int = 3) -> float:
    """Share of a text's n-grams that occurred before in it (seq-rep-n, Welleck et al. 2020).

    Returns:
        0 (nothing repeats, or fewer than ``n`` tokens) to nearly 1 (a loop).
    """
    grams = _ngrams(token_ids, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(texts: Iterable[Sequence[int]], n: int = 2) -> float:
    """Different n-grams over all n-grams of many texts together (distinct-n, Li et al. 2016).

    Returns:
        1 when no n-gram occurs twice, near 0 when all texts say the same; 0 without n-grams.
    """
    grams = [gram for text in texts for gram in _ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def calibration_curve(differences: ArrayLike, bins: int = 10) -> list[dict[str, float]]:
    """How often a reward model is right, by how sure it is.

    The model's sureness of a pair is the absolute score difference; Bradley-Terry predicts the
    accuracy sigmoid(difference), so a tie counts one half here. Bins hold like numbers of pairs, so
    that each point says as much.

    Args:
        differences: [n] score of the better reply − score of the worse one.
        bins: number of points at most.

    Returns:
        For each bin ``difference`` (mean of |difference|), ``accuracy``, the 95 % Wilson interval
        ``low`` and ``high``, and ``count``; ordered by difference.
    """
    signed = _vector(differences)
    order = np.argsort(np.abs(signed), kind="stable")
    curve = []
    for chunk in np.array_split(signed[order], min(bins, len(signed))):
        accuracy = float(((np.sign(chunk) + 1) / 2).mean())
        low, high = wilson(accuracy, len(chunk))
        curve.append(
            {
                "difference": float(np.abs(chunk).mean()),
                "accuracy": accuracy,
                "low": low,
                "high": high,
                "count": len(chunk),
            }
        )
    return curve


def wilson(share: float, count: int) -> tuple[float, float]:
    """Ends of the 95 % Wilson interval of a share of ``count`` things."""
    square = NORMAL_95**2
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = np.sqrt(share * (1 - share) / count + square / (4 * count**2)) * NORMAL_95
    half /= 1 + square / count
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def _vector(values: ArrayLike) -> NDArray[np.float64]:
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or not len(data):
        raise ValueError(f"expected one or more values in one dimension, got shape {data.shape}")
    if not np.isfinite(data).all():
        raise ValueError(f"value {int(np.argmin(np.isfinite(data)))} is not finite")
    return data


def _pair(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    left, right = _vector(first), _vector(second)
    if len(left) != len(right):
        raise ValueError(f"pairs need equal lengths, got {len(left)} and {len(right)}")
    return left, right


def _cluster(
    data: NDArray[np.float64], groups: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and size of each group."""
    if groups is None:
        return data, np.ones_like(data)
    labels = np.asarray(groups)
    if labels.shape != data.shape:
        raise ValueError(f"{len(data)} values but groups of shape {labels.shape}")
    _, index = np.unique(labels, return_inverse=True)
    sums, sizes = np.bincount(index, weights=data), np.bincount(index)
    return sums.astype(np.float64), sizes.astype(np.float64)


def _ngrams(tokens: Sequence[int], n: int) -> list[tuple[Hashable, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
