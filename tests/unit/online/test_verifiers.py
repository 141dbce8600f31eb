"""Answers that are compared with known ones."""

from __future__ import annotations

from fractions import Fraction

import pytest

from rlhf.online.verifiers import as_number, exact_match, marked_answer, math_answer, same_answer

# The last line of a solution of GSM8K, as its rows have it.
SOLUTION = "She sold 48/2 = <<48/2=24>>24 clips.\nTogether 48+24 = <<48+24=72>>72.\n#### 72"


def test_exact_match():
    responses, answer = [" Paris\n", "paris", "Rome"], ["Paris", "Paris", "Paris"]
    assert exact_match(responses, answer) == [1.0, 0.0, 0.0]
    assert exact_match(responses, answer, ignore_case=True) == [1.0, 1.0, 0.0]
    assert exact_match(responses, answer, correct=2.0, wrong=-1.0) == [2.0, -1.0, -1.0]
    assert exact_match(["5"], [5]) == [1.0]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (SOLUTION, "72"),
        ("so \\boxed{\\frac{1}{2}} it is", "\\frac{1}{2}"),
        ("\\boxed{1}, no: \\boxed{2}", "2"),
        ("#### 3\n\\boxed{4}", "4"),
        ("#### 3\n#### 5", "5"),
        ("the answer is 72", None),
        ("\\boxed{never closed", None),
        ("####", None),
        ("####\n7", None),
    ],
)
def test_marked_answers(text, answer):
    assert marked_answer(text) == answer


def test_answers_of_grade_school_math():
    responses = ["#### 72", "#### 72.00", "so \\boxed{72}", "#### 71", "it is 72", "It is 72."]
    answers = [SOLUTION] * 6
    assert math_answer(responses, answers) == [1, 1, 1, 0, 0, 0]
    assert math_answer(responses, answers, last_number=True) == [1, 1, 1, 0, 1, 1]
    assert math_answer(responses[:4], answers[:4], correct=0.5, wrong=-0.5)[2:] == [0.5, -0.5]
    assert math_answer(["#### 1,234"], [1234]) == [1]
    assert math_answer(["I have 1,234 or 5"], ["5"], last_number=True) == [1]
    with pytest.raises(ValueError, match="the known answer is empty"):
        math_answer(["1"], [""])


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,234,567", Fraction(1234567)),
        ("$ 18.50", Fraction(37, 2)),
        ("\\$18", Fraction(18)),
        ("50\\%", Fraction(50)),
        ("-3.", Fraction(-3)),
        ("2/6", Fraction(1, 3)),
        ("1/0", None),
        ("1,23", None),
        ("x", None),
        ("", None),
        ("1e9", None),
    ],
)
def test_numbers(text, number):
    assert as_number(text) == number


@pytest.mark.parametrize(
    ("known", "given", "same"),
    [
        ("\\frac{1}{2}", "0.5", True),
        ("(x+1)^2", "x^2+2x+1", True),
        ("2\\sqrt{2}", "\\sqrt{8}", True),
        ("(1, 2)", "(1,2)", True),
        ("x+1", "x+2", False),
        ("4", "\\frac{", False),
    ],
)
def test_formulas_are_compared_by_math_verify(known, given, same):
    assert same_answer(known, given) is same


@pytest.mark.parametrize(
    "costly",
    ["9^{9^{9^{9}}}", "9**9**9", "2^{99999}", "100000!", "1" * 300, "\\sum_{n=1}^{99} n",
     "1234567890123456x"],
)  # fmt: skip
def test_what_could_take_for_ever_is_wrong_unless_it_is_written_alike(costly):
    assert same_answer("x", costly) is False
    assert same_answer(costly, costly) is True
