"""How scores agree with preferences, against formulas in float64 written out number by number."""

from __future__ import annotations

import math
import random
from itertools import combinations

import numpy as np
import pytest

from rlhf.evaluation.agreement import (
    ScoredRow,
    calibration_error,
    figures,
    length_correlation,
    spearman,
    tables,
)


def make_rows(seed: int, ties: bool = False) -> list[ScoredRow]:
    draw, rows = random.Random(seed), []
    for i in range(40):
        size = draw.randint(2, 5)
        scores = [draw.randint(0, 3) / 2 if ties else draw.gauss(0, 2) for _ in range(size)]
        rows.append(ScoredRow("ab"[i % 2], scores, [draw.randint(1, 9) for _ in range(size)]))
    return rows


def pearson(xs: list[float], ys: list[float]) -> float:
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True))
    below = math.sqrt(sum((x - mx) ** 2 for x in xs) * sum((y - my) ** 2 for y in ys))
    return above / below if below else 0.0


def test_spearman_without_ties_is_the_sum_of_squared_rank_differences():
    for row in make_rows(1):
        size, order = len(row.scores), sorted(row.scores, reverse=True)
        squares = sum((place - order.index(s)) ** 2 for place, s in enumerate(row.scores))
        expected = 1 - 6 * squares / (size * (size**2 - 1))
        assert spearman(row.scores) == pytest.approx(expected)


def test_spearman_with_ties_is_the_correlation_of_mean_ranks():
    for row in make_rows(2, ties=True):
        ordered = sorted(row.scores)
        ranks = []
        for s in row.scores:
            places = [i + 1 for i, other in enumerate(ordered) if other == s]
            ranks.append(sum(places) / len(places))
        people = [float(len(ranks) - i) for i in range(len(ranks))]
        assert spearman(row.scores) == pytest.approx(pearson(ranks, people))
    assert spearman([1.0, 1.0, 1.0]) == 0.0


def test_calibration_error_by_hand():
    def sure(p: float) -> float:
        return math.log(p / (1 - p))

    differences = [sure(0.91), -sure(0.93), sure(0.62), sure(0.64), -sure(0.61)]
    # Two bins of ten hold pairs: 0.9 to 0.95, half of them right; 0.6 to 0.65, two of three.
    expected = 2 / 5 * abs(0.92 - 1 / 2) + 3 / 5 * abs((0.62 + 0.64 + 0.61) / 3 - 2 / 3)
    assert calibration_error(differences) == pytest.approx(expected)
    assert calibration_error([0.0, 0.0]) == 0.0  # a tie is right half of the time
    assert calibration_error([-40.0]) == pytest.approx(1.0)
    assert math.isnan(calibration_error([float("nan"), 1.0]))


def test_a_calibrated_model_has_no_calibration_error():
    draw = np.random.default_rng(3)
    sizes = draw.normal(size=200_000) * 2
    signs = np.where(draw.random(200_000) < 1 / (1 + np.exp(-sizes)), 1, -1)
    assert calibration_error(sizes * signs) < 0.005
    assert calibration_error(3 * sizes * signs) > 0.1


def test_length_correlation_is_within_rows():
    rows = make_rows(4)
    scores, tokens = [], []
    for row in rows:
        scores += [s - sum(row.scores) / len(row.scores) for s in row.scores]
        tokens += [t - sum(row.tokens) / len(row.tokens) for t in row.tokens]
    assert length_correlation(rows) == pytest.approx(pearson(scores, tokens))
    between = [ScoredRow("a", [9.0, 9.0], [80, 90]), ScoredRow("a", [1.0, 1.0], [8, 9])]
    assert length_correlation(between) == 0.0
    assert length_correlation([ScoredRow("a", [2.0, 1.0], [7, 4])]) == pytest.approx(1.0)


def test_tables_count_the_pairs_of_each_part():
    rows = make_rows(5, ties=True)
    found = {kind: {row["name"]: row for row in part} for kind, part in tables(rows).items()}
    right: dict[str, list[bool]] = {}
    for row in rows:
        for i, j in combinations(range(len(row.scores)), 2):
            ahead = row.tokens[i] - row.tokens[j]
            name = "equal length" if not ahead else (
                "longer reply better" if ahead > 0 else "shorter reply better"
            )  # fmt: skip
            for key in (row.dataset, name):
                right.setdefault(key, []).append(row.scores[i] > row.scores[j])
    assert right.keys() == {*found["datasets"], *found["lengths"]}
    for name, known in right.items():
        row = (found["datasets"] | found["lengths"])[name]
        share, n = sum(known) / len(known), len(known)
        z = 1.959963984540054
        middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
        assert row["pairs"] == n
        assert (row["accuracy"], row["low"], row["high"]) == pytest.approx(
            (share, middle - half, middle + half)
        )
    assert tables([]) == {"datasets": [], "lengths": []}


def test_figures_are_over_all_rows():
    rows = make_rows(6)
    differences = [a - b for row in rows for a, b in combinations(row.scores, 2)]
    assert figures(rows) == pytest.approx({
        "spearman": sum(spearman(row.scores) for row in rows) / len(rows),
        "calibration_error": calibration_error(differences),
        "length_correlation": length_correlation(rows),
    })  # fmt: skip
    assert figures([]) == {}
