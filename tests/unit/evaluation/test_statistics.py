from __future__ import annotations

import numpy as np
import pytest

from rlhf.evaluation.statistics import (
    bootstrap_mean,
    calibration_curve,
    distinct,
    mean_over_seeds,
    paired_difference,
    repetition,
    student_quantile,
    win_rate,
)


def test_mean_is_exact_and_inside_its_interval() -> None:
    found = bootstrap_mean([1.0, 2.0, 3.0, 10.0], seed=1)
    assert found.mean == 4.0
    assert found.low < 4.0 < found.high
    assert found.as_dict() == {"mean": found.mean, "low": found.low, "high": found.high}


def test_interval_has_the_width_of_theory() -> None:
    values = np.random.default_rng(0).normal(size=400)
    found = bootstrap_mean(values, seed=3)
    half = 1.96 * values.std() / 20
    assert found.high - found.mean == pytest.approx(half, rel=0.05)
    assert found.mean - found.low == pytest.approx(half, rel=0.05)


def test_same_seed_same_interval() -> None:
    values = np.random.default_rng(0).normal(size=50)
    assert bootstrap_mean(values, seed=7) == bootstrap_mean(values, seed=7)
    assert bootstrap_mean(values, seed=7) != bootstrap_mean(values, seed=8)


def test_memory_bound_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=50)
    whole = bootstrap_mean(values, seed=7, resamples=500)
    monkeypatch.setattr("rlhf.evaluation.statistics.DRAWS_AT_ONCE", 50 * 7)
    assert bootstrap_mean(values, seed=7, resamples=500) == whole


def test_coverage_of_independent_samples() -> None:
    rng = np.random.default_rng(11)
    trials = 300
    hits = 0
    for seed in range(trials):
        found = bootstrap_mean(rng.exponential(2.0, size=80), seed, resamples=600)
        hits += found.low <= 2.0 <= found.high
    assert 0.90 <= hits / trials <= 0.98


def test_clusters_restore_the_coverage_that_independence_loses() -> None:
    rng = np.random.default_rng(12)
    groups = np.repeat(np.arange(60), 8)
    clustered = naive = 0
    trials = 200
    for seed in range(trials):
        prompt = rng.normal(size=60)  # what the samples of a prompt have in common
        values = prompt[groups] + rng.normal(scale=0.5, size=len(groups))
        honest = bootstrap_mean(values, seed, resamples=500, groups=groups)
        wrong = bootstrap_mean(values, seed, resamples=500)
        clustered += honest.low <= 0 <= honest.high
        naive += wrong.low <= 0 <= wrong.high
    assert clustered / trials >= 0.89
    assert naive / trials <= 0.70


def test_groups_of_different_sizes_and_string_labels() -> None:
    found = bootstrap_mean([1.0, 1.0, 1.0, 5.0], seed=0, groups=["a", "a", "a", "b"])
    assert found.mean == 2.0  # every sample weighs alike
    assert (found.low, found.high) == (1.0, 5.0)  # a draw of one group twice


def test_one_group_has_no_spread() -> None:
    found = bootstrap_mean([1.0, 3.0], seed=0, groups=[4, 4])
    assert (found.mean, found.low, found.high) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("values", "groups", "message"),
    [
        ([], None, "one or more"),
        ([1.0, float("nan")], None, "value 1 is not finite"),
        ([1.0, 2.0], [1], "groups"),
    ],
)
def test_bad_values(values: list[float], groups: list[int] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_mean(values, 0, groups=groups)


def test_pairs_remove_what_both_models_share() -> None:
    shared = np.random.default_rng(0).normal(scale=10, size=100)
    found = paired_difference(shared + 1, shared, seed=0)
    assert (found.mean, found.low, found.high) == pytest.approx((1, 1, 1))


def test_win_rate_counts_ties_half() -> None:
    found = win_rate([1.0, 2.0, 3.0, 0.0], [0.0, 2.0, 1.0, 5.0], seed=0)
    assert found.mean == (1 + 0.5 + 1 + 0) / 4
    assert 0 <= found.low <= found.mean <= found.high <= 1


def test_win_rates_of_both_sides_sum_to_one() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 4, 50), rng.integers(0, 4, 50)
    there, back = win_rate(left, right, seed=2), win_rate(right, left, seed=2)
    assert there.mean + back.mean == pytest.approx(1)
    assert there.low + back.high == pytest.approx(1)


def test_unequal_pairs() -> None:
    with pytest.raises(ValueError, match="equal lengths"):
        win_rate([1.0], [1.0, 2.0], seed=0)


def test_repetition_by_hand() -> None:
    assert repetition([1, 2, 3, 1, 2, 3]) == pytest.approx(1 / 4)  # 123 231 312 123
    assert repetition([7] * 12) == pytest.approx(9 / 10)
    assert repetition([1, 2]) == 0.0
    assert repetition([]) == 0.0


def test_distinct_by_hand() -> None:
    assert distinct([[1, 2, 3], [1, 2, 4]], n=2) == pytest.approx(3 / 4)  # 12 23 12 24
    assert distinct([[1]], n=2) == 0.0


def test_calibration_of_a_calibrated_model() -> None:
    rng = np.random.default_rng(0)
    sure = rng.exponential(1.0, 20_000)
    right = rng.random(20_000) < 1 / (1 + np.exp(-sure))
    curve = calibration_curve(np.where(right, sure, -sure), bins=8)
    assert sum(one["count"] for one in curve) == 20_000
    assert [one["difference"] for one in curve] == sorted(one["difference"] for one in curve)
    for one in curve[:-1]:  # the last bin is too wide for its mean difference to stand for it
        assert one["accuracy"] == pytest.approx(1 / (1 + np.exp(-one["difference"])), abs=0.03)
        assert one["low"] < one["accuracy"] < one["high"]


def test_calibration_of_few_pairs() -> None:
    (one,) = calibration_curve([2.0])
    assert (one["difference"], one["accuracy"], one["count"]) == (2.0, 1.0, 1)
    assert one["low"] == pytest.approx(0.2065, abs=1e-4)  # Wilson, 1 of 1
    assert one["high"] == 1.0


@pytest.mark.parametrize(
    ("freedom", "quantile"),  # of tables
    [(1, 12.7062047), (2, 4.3026527), (5, 2.5705818), (30, 2.0422725), (10**6, 1.9599664)],
)
def test_quantiles_of_student(freedom: int, quantile: float) -> None:
    assert student_quantile(0.975, freedom) == pytest.approx(quantile, rel=1e-5)


def test_mean_over_seeds_is_that_of_the_formulas() -> None:
    """Variances by their definition, as means of squares of all differences."""
    values = np.random.default_rng(3).normal(size=(3, 5)) + np.array([[0.0], [1.0], [2.0]])
    by_seed = [sum(row) / 5 for row in values.tolist()]
    by_prompt = [sum(row[p] for row in values.tolist()) / 3 for p in range(5)]

    def variance(means: list[float]) -> float:
        n = len(means)
        return sum((a - b) ** 2 for a in means for b in means) / (2 * n * (n - 1))

    # The rest: what is left of every 2 × 2 table of two seeds and two prompts.
    contrasts = [
        (values[s, p] - values[t, p] - values[s, q] + values[t, q]) ** 2
        for s in range(3) for t in range(s) for p in range(5) for q in range(p)
    ]  # fmt: skip
    rest = sum(contrasts) / len(contrasts) / 4
    seeds, prompts = variance(by_seed) / 3, variance(by_prompt) / 5
    half = (4.3026527**2 * (seeds - rest / 15) + 2.7764451**2 * prompts) ** 0.5
    assert seeds > rest / 15

    found = mean_over_seeds(values)
    assert found.mean == pytest.approx(sum(by_seed) / 3, rel=1e-12)
    assert found.high - found.mean == pytest.approx(half, rel=1e-6)
    assert found.mean - found.low == pytest.approx(half, rel=1e-6)


def test_seeds_that_are_alike_add_nothing() -> None:
    """Such as an SFT model that all seeds share: the interval is that of its prompts."""
    prompts = np.random.default_rng(2).normal(size=40)
    found = mean_over_seeds([prompts, prompts, prompts])
    half = student_quantile(0.975, 39) * prompts.std(ddof=1) / 40**0.5
    assert found.high - found.mean == pytest.approx(half, rel=1e-9)
    assert mean_over_seeds([[2.0], [2.0]]).as_dict() == {"mean": 2.0, "low": 2.0, "high": 2.0}


@pytest.mark.parametrize("seed_effect", [0.0, 0.3, 1.0])
def test_coverage_over_seeds_and_prompts(seed_effect: float) -> None:
    """Checklist 36"""
    rng = np.random.default_rng(21)
    hits, trials = 0, 1000
    for _ in range(trials):
        values = seed_effect * rng.normal(size=(3, 1)) + rng.normal(size=(1, 50))
        found = mean_over_seeds(values + rng.normal(size=(3, 50)))
        hits += found.low <= 0.0 <= found.high
    assert 0.93 <= hits / trials <= 0.98


def test_resampled_seeds_would_cover_too_little() -> None:
    """What the docs say of a bootstrap of three seeds that differ."""
    rng = np.random.default_rng(22)
    hits = 0
    for _ in range(200):
        values = rng.normal(size=(3, 1)) + 0.5 * rng.normal(size=(3, 20))
        seeds, prompts = rng.integers(0, 3, size=(200, 3)), rng.integers(0, 20, size=(200, 20))
        means = values[seeds[:, :, None], prompts[:, None, :]].mean(axis=(1, 2))
        low, high = np.quantile(means, [0.025, 0.975])
        hits += low <= 0.0 <= high
    assert hits / 200 < 0.85


@pytest.mark.parametrize("values", [[[1.0, 2.0]], [1.0, 2.0], [[], []], [[1.0], [float("nan")]]])
def test_what_has_no_mean_over_seeds(values: list) -> None:
    with pytest.raises(ValueError, match=r"seeds × prompts|not finite"):
        mean_over_seeds(values)
