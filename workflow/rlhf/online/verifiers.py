"""Reward functions that compare responses with known answers.

Each takes lists with one entry for each response, as ``functions.RewardFunction`` gives them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

# What a comparison of formulas may cost is bounded by what they look like, not by a clock, so that
# a score is the same on every machine.
LONGEST = 200  # characters of an answer
_COSTLY = re.compile(
    r"!|\\(?:int|sum|prod|lim)|\d{16}|(\^|\*\*)[^+\-*/=,]*(\^|\*\*)|(\^|\*\*)\W*\d{3}"
)
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?")
_IN_TEXT = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")
_AFTER_MARK = re.compile(r"####[ \t]*([^\n]+)")


def exact_match(
    responses: Sequence[str],
    answer: Sequence[Any],
    ignore_case: bool = False,
    correct: float = 1.0,
    wrong: float = 0.0,
) -> list[float]:
    """Whether a response is the answer, but for white space.

    Args:
        responses: the responses' texts.
        answer: what they should be.
        ignore_case: whether small and capital letters are the same.
        correct: score of a response that is the answer.
        wrong: score of one that is not.
    """

    def plain(text: Any) -> str:
        words = " ".join(str(text).split())
        return words.casefold() if ignore_case else words

    pairs = zip(responses, answer, strict=True)
    return [correct if plain(text) == plain(known) else wrong for text, known in pairs]


def math_answer(
    responses: Sequence[str],
    answer: Sequence[Any],
    last_number: bool = False,
    correct: float = 1.0,
    wrong: float = 0.0,
) -> list[float]:
    r"""Whether a response ends in the right number or formula, as in GSM8K (arXiv 2110.14168).

    The answer of a text is what stands in its last ``\boxed{…}``, else after its last ``####``.
    Numbers are compared exactly, so that 1,000 and 1000.0 are the same; formulas as math-verify
    does. A formula of more than 200 characters, with powers of powers, large exponents,
    factorials, sums, limits or integrals, is wrong unless it is written like the answer.

    Args:
        responses: the responses' texts.
        answer: the solutions, or the answers alone.
        last_number: take the last number of a response that marks no answer; without it such a
            response is wrong.
        correct: score of a right answer.
        wrong: score of a wrong one, or none.

    Raises:
        ValueError: a known answer is empty.
    """
    scores = []
    for text, solution in zip(responses, answer, strict=True):
        known = marked_answer(str(solution)) or str(solution).strip()
        if not known:
            raise ValueError(f"the known answer is empty: {solution!r}")
        given = marked_answer(text)
        if given is None and last_number:
            given = next(reversed(_IN_TEXT.findall(text)), None)
        scores.append(correct if given is not None and same_answer(known, given) else wrong)
    return scores


def marked_answer(text: str) -> str | None:
    r"""What stands in the last ``\boxed{…}`` of a text, else after its last ``####``."""
    start = text.rfind("\\boxed{")
    if start >= 0:
        depth, begin = 0, start + len("\\boxed")
        for place in range(begin, len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if not depth:
                return text[begin + 1 : place].strip() or None
    marks = _AFTER_MARK.findall(text)
    return marks[-1].strip() or None if marks else None


def same_answer(known: str, given: str) -> bool:
    """Whether two answers are the same number, or formulas that math-verify takes for equal."""
    if known == given:
        return True
    numbers = as_number(known), as_number(given)
    if None not in numbers:
        return numbers[0] == numbers[1]
    if any(len(text) > LONGEST or _COSTLY.search(text) for text in (known, given)):
        return False
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that no clock runs
    from math_verify import parse, verify

    first, second = (parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in (known, given))
    return bool(first and second and verify(first, second, timeout_seconds=None))


def as_number(text: str) -> Fraction | None:
    """The number that a text is: whole, decimal or a fraction of two, with its signs or without."""
    bare = re.sub(r"\\[$%!,]|[\s$%]", "", text).rstrip(".")
    above, slash, below = bare.partition("/")
    parts = [above, below] if slash else [above]
    if not all(len(part) <= LONGEST and re.search(r"\d", part) and _NUMBER.fullmatch(part)
               for part in parts):  # fmt: skip
        return None
    values = [Fraction(part.replace(",", "")) for part in parts]
    if slash:
        return values[0] / values[1] if values[1] else None
    return values[0]


# What a configuration calls them; `config.reward_terms` names the same.
VERIFIERS: dict[str, Callable[..., list[float]]] = {
    "exact_match": exact_match,
    "math_answer": math_answer,
}
