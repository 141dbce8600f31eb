"""docs/checklist.md and the tests that refer to it agree."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from support.page_tables import DOCS, REPOSITORY

TESTS = REPOSITORY / "tests"


def entries() -> dict[int, str]:
    """Number → text of the entry."""
    text = (DOCS / "checklist.md").read_text(encoding="utf-8")
    parts = re.split(r"^### (\d+)\. ", text, flags=re.MULTILINE)
    numbers = [int(number) for number in parts[1::2]]
    assert numbers == list(range(1, len(numbers) + 1))
    return {n: re.split(r"^## ", part, flags=re.MULTILINE)[0]
            for n, part in zip(numbers, parts[2::2], strict=True)}  # fmt: skip


def named(text: str) -> list[str]:
    """Tests that a text names."""
    return re.findall(r"`([\w/.]+\.py::test_\w+)`", text)


def cases(path: Path) -> dict[str, str]:
    """``file::name`` → docstring of every test in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    place = path.relative_to(TESTS).as_posix()
    return {f"{place}::{node.name}": ast.get_docstring(node) or "" for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}  # fmt: skip


def all_tests() -> dict[str, str]:
    return {test: text for path in TESTS.rglob("test_*.py") for test, text in cases(path).items()}


def test_every_test_that_the_page_names_exists():
    known = all_tests()
    assert [(n, t) for n, text in entries().items() for t in named(text) if t not in known] == []


def test_every_number_that_a_test_gives_is_the_entry_that_names_it():
    page = entries()
    references = [
        (int(number), test)
        for test, docstring in all_tests().items()
        for numbers in re.findall(r"Checklist (\d+(?:, \d+)*)", docstring)
        for number in numbers.split(", ")
    ]
    assert len(references) > 50
    assert [(n, t) for n, t in references if t not in named(page.get(n, ""))] == []


def test_an_entry_without_a_test_says_so():
    reason = re.compile(r"^(Does not apply|Not held): ", flags=re.MULTILINE)
    assert [n for n, text in entries().items() if not named(text) and not reason.search(text)] == []
