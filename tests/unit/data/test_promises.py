"""Every sentence and every option of docs/data.md is held by tests, which `promises` names."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

from support.promises import NOTHING, PROMISES

TESTS = Path(__file__).resolve().parents[2]
PAGE = TESTS.parent / "docs" / "data.md"
SENTENCES = re.compile(r"(?<=\.)\s+(?=[A-Z`<])")
COUNT = 255  # of sentences and rows that promise something: so many the project may claim


def statements(text):
    """(heading, sentence or row of a table) of a page but for code and the table of datasets."""
    text = re.sub(r"<!-- datasets: generated -->.*?<!-- end of datasets -->", "", text, flags=re.S)
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    found, heading = [], ""
    for block in re.split(r"\n\s*\n", text):
        if block.startswith("<!-- end"):
            heading = ""
        lines = [line for line in block.splitlines() if line and not line.startswith("<!--")]
        if lines and lines[0].startswith("#"):
            heading, lines = lines[0].strip("#` "), lines[1:]
        if lines and lines[0].startswith("| "):
            lines = lines[2:]  # names of the columns
        elif lines and not lines[0].startswith("- "):
            lines = [one for line in lines for one in SENTENCES.split(line.strip())]
        found += [(heading, line.removeprefix("| ").removeprefix("- ")) for line in lines]
    return found


@functools.cache
def names_of(path):
    """Tests of a file, those in classes as `Class.test`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {one.name for one in tree.body if isinstance(one, ast.FunctionDef)}
    for each in (one for one in tree.body if isinstance(one, ast.ClassDef)):
        found |= {
            f"{each.name}.{one.name}" for one in each.body if isinstance(one, ast.FunctionDef)
        }
    return found


def test_every_statement_is_in_one_of_the_tables_once():
    known = [
        (heading, start)
        for table in (PROMISES, NOTHING)
        for heading, starts in table.items()
        for start in starts
    ]
    assert len(set(known)) == len(known)
    found = statements(PAGE.read_text(encoding="utf-8"))
    belongs = {
        one: [key for key in known if key[0] == one[0] and one[1].startswith(key[1])]
        for one in found
    }
    assert len(belongs) == len(found), "a sentence stands twice under one heading"
    assert [one for one, keys in belongs.items() if len(keys) != 1] == []
    assert sorted(keys[0] for keys in belongs.values()) == sorted(known)


def test_every_test_that_is_named_exists():
    files = {}
    for path in TESTS.rglob("test_*.py"):
        name = path.stem.removeprefix("test_")
        for key in (name, f"{path.parent.name}/{name}"):
            files.setdefault(key, []).append(path)
    missing = []
    for heading, starts in PROMISES.items():
        for start, names in starts.items():
            assert names.split(), (heading, start)
            for name in names.split():
                file, _, test = name.partition("::")
                paths = files.get(file, [])
                assert len(paths) <= 1, name
                is_test = test.rpartition(".")[2].startswith("test_")
                if not (paths and is_test and test in names_of(paths[0])):
                    missing.append(name)
    assert missing == []


def test_their_number():
    promising = sum(map(len, PROMISES.values()))
    print(f"{promising} sentences of docs/data.md promise something; each is held by tests")
    assert promising == COUNT
