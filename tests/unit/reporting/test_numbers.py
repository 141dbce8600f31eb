from __future__ import annotations

import pytest

from rlhf.reporting.numbers import duration, figure, interval, percent, short


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0, "0"),
        (-0.0, "0"),
        (1234567, "1,234,567"),
        (12345.6, "12,346"),
        (3.14159, "3.14"),
        (-1.5, "−1.50"),
        (0.5, "0.500"),
        (0.01234, "0.012"),
        (1e-5, "1.00e−5"),
        (-2.5e-7, "−2.50e−7"),
    ],
)
def test_figure(value: float | None, expected: str) -> None:
    assert figure(value) == expected


def test_percent_and_interval() -> None:
    assert percent(0.8074) == "80.7 %"
    assert percent(None) == "–"
    assert interval({"mean": 0.5, "low": 0.25, "high": 0.75}) == "[0.250, 0.750]"
    assert interval({"low": 0.25, "high": 0.75}, percent) == "[25.0 %, 75.0 %]"
    assert interval({"mean": 1.0}) == interval(None) == ""


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0123, "12 ms"),
        (9.96, "10.0 s"),
        (59.7, "1 min"),
        (725, "12 min 5 s"),
        (3600, "1 h"),
        (12_000, "3 h 20 min"),
        (187_200, "2 d 4 h"),
    ],
)
def test_duration(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_short() -> None:
    assert short("0123456789abcdef") == "01234567"
    assert short("") == "–"
