"""Functions in people's own files: their content, and how they are loaded."""

from __future__ import annotations

import sys

import pytest

from rlhf.core.digest import digest_file
from rlhf.core.user_functions import content_of, load_function, split_reference
from rlhf.errors import ConfigError


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_references():
    assert split_reference("a/b.py:score") == ("a/b.py", "score")
    assert split_reference("C:/b.py:score") == ("C:/b.py", "score")
    assert split_reference("exact_match") == ("", "exact_match")


def test_local_modules_count_and_others_do_not(write):
    """A change in a module beside the file is a change of the function."""
    file = write(
        "f.py", "import json\nimport near_a\n\ndef score():\n    from pack.deep import x\n"
    )
    near = write("near_a.py", "from near_b import thing\n")
    further = write("near_b.py", "thing = 1\n")
    package, deep = write("pack/__init__.py", ""), write("pack/deep.py", "x = 1\n")
    write("unrelated.py", "")
    files = [file, near, further, package, deep]
    assert content_of(file) == {str(path): digest_file(path) for path in sorted(files)}


def test_modules_that_import_each_other(write):
    first, second = write("one_a.py", "import one_b\n"), write("one_b.py", "import one_a\n")
    assert content_of(first).keys() == {str(first), str(second)}


def test_a_function_with_its_neighbours(write):
    write("neighbour_of_f.py", "ANSWER = 42\n")
    file = write("f.py", "import math\nfrom neighbour_of_f import ANSWER\n\n"
                 "def score():\n    return math.floor(ANSWER + 0.5)\n")  # fmt: skip
    write("math.py", "raise ImportError('a file called like a library')\n")
    assert load_function(f"{file}:score", "here")() == 42


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def other():\n    pass\n", "defines no function `score`"),
        ("score = 5\n", "defines no function `score`"),
        ("import no_such_module_anywhere\n", "ModuleNotFoundError: No module named"),
        ("1 / 0\n", "ZeroDivisionError"),
    ],
)
def test_what_can_not_be_loaded(write, text, says):
    file = write("f.py", text)
    with pytest.raises(ConfigError, match=says) as error:
        load_function(f"{file}:score", "ppo.final.reward")
    assert "ppo.final.reward" in str(error.value)


@pytest.mark.parametrize("text", [None, "def broken(:\n"])
def test_what_can_not_be_read(write, tmp_path, text):
    if text:
        write("f.py", text)
    with pytest.raises(ConfigError, match="can't be read as Python"):
        content_of(tmp_path / "f.py")
