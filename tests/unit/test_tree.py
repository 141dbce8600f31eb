"""The tests' own tree: where a test is looked for, and that all are run."""

from __future__ import annotations

import tomllib
from pathlib import Path

import rlhf

TESTS = Path(__file__).resolve().parents[1]
PACKAGE = Path(rlhf.__file__).parent
PAGES = "docs"  # what the documentation shows is tested too


def test_the_folders_of_unit_tests_are_those_of_the_package():
    tested = {path.parent for path in (TESTS / "unit").rglob("test_*.py")} - {TESTS / "unit"}
    wrong = [path for path in tested if not (PACKAGE / path.relative_to(TESTS / "unit")).is_dir()]
    assert {path.name for path in wrong} <= {PAGES}


def test_every_folder_with_tests_is_run():
    settings = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())
    listed = set(settings["tool"]["pytest"]["ini_options"]["testpaths"])
    folders = {path.relative_to(TESTS).parts[0] for path in TESTS.rglob("test_*.py")}
    assert listed == {f"tests/{name}" for name in folders}
