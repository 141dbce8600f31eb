"""Advice of an error, followed: what comes out is what stands in the file, and all of it."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from rlhf.data.formats.source import Source
from rlhf.errors import DataError


class Case(NamedTuple):
    """A file that is refused, the advice, and what it means: other options, or another text."""

    file: str
    content: str
    advice: str
    options: dict[str, Any]
    mended: str | None
    rows: list[tuple[str, str]]
    format: str = "qa"
    before: dict[str, Any] | None = None


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


TWO = [("a", "b"), ("c", "d")]
CASES = {
    "column: another name": Case(
        "x.jsonl", lines({"question": "a", "anser": "b"}, {"question": "c", "anser": "d"}),
        "set `options.answer` to the right column, `anser` perhaps",
        {"answer": "anser"}, None, TWO),
    "column: a part of an object": Case(
        "x.jsonl", lines(*({"question": q, "answer": {"n": 1, "value": a}} for q, a in TWO)),
        "name a part of it, `answer.value` perhaps", {"answer": "answer.value"}, None, TWO),
    "column: a list": Case(
        "x.jsonl", lines(*({"question": q, "answer": [a]} for q, a in TWO)),
        "`answer.0` is the first of its 1 parts, the others are left",
        {"answer": "answer.0"}, None, TWO),
    "column: a number": Case(
        "x.jsonl", lines({"question": "a", "answer": 5}, {"question": "b", "answer": 0.5}),
        "`{answer}`", {"answer": "{answer}"}, None, [("a", "5"), ("b", "0.5")]),
    "column: a template": Case(
        "x.jsonl", lines({"question": "a", "context": "b", "answer": "c"}),
        "set `{contxt}` in `options.question` to the right column, `context` perhaps",
        {"question": "{context}: {question}"}, None, [("b: a", "c")],
        before={"question": "{contxt}: {question}"}),
    "json: a list under a key": Case(
        "x.json", lines({"n": 2, "data": [{"question": q, "answer": a} for q, a in TWO]}),
        "`options.field`: data", {"field": "data"}, None, TWO),
    "json: two objects on a later line": Case(
        "x.jsonl", '{"question": "a", "answer": "b"}\n{"question": "c", "answer": "d"} {}',
        "write what follows on its own line", {"invalid": "drop"},
        '{"question": "a", "answer": "b"}\n{"question": "c", "answer": "d"}\n{}', TWO),
    "json: a key twice": Case(
        "x.jsonl", '{"question": "a", "answer": "no", "answer": "b"}',
        "each key once: of two values, which one is right?", {},
        '{"question": "a", "answer": "b"}', [("a", "b")]),
    "json: texts in lists": Case(
        "x.json", '[["a", "b"]]', "write each row as an object that names its parts", {},
        '[{"question": "a", "answer": "b"}]', [("a", "b")]),
    "csv: nobody can tell": Case(
        "x.csv", "question;x|answer\na;b|c\n", "name it, such as `options.delimiter: ';'`",
        {"delimiter": "|", "question": "question;x"}, None, [("a;b", "c")]),
    "csv: a comma in a text": Case(
        "x.csv", "question,answer\na,b, c\n", "put a text that holds a comma in quotes", {},
        'question,answer\na,"b, c"\n', [("a", "b, c")]),
    "csv: no first line": Case(
        "x.csv", "a,b\nc,d\n", "put a line with the columns' names before it", {},
        "question,answer\na,b\nc,d\n", TWO),
    "csv: a first line with one value twice": Case(
        "x.csv", "a,a\nc,d\n", "if it is a row, put a line with the columns' names before it", {},
        "question,answer\na,a\nc,d\n", [("a", "a"), ("c", "d")]),
    "csv: rows in quotes as a whole": Case(
        "x.csv", '"question;answer"\n"a;b"\n', "`options.delimiter`, and write each text in quotes",
        {"delimiter": ";"}, '"question";"answer"\n"a";"b"\n', [("a", "b")]),
    "csv: a quote inside of quotes": Case(
        "x.csv", 'question,answer\n"a "x" b",c\n', 'write a quote inside of quotes twice: ""', {},
        'question,answer\n"a ""x"" b",c\n', [('a "x" b', "c")]),
}  # fmt: skip


def pairs(source):
    return [
        tuple(one.content for one in row.messages) for row in source if hasattr(row, "messages")
    ]


@pytest.mark.parametrize("name", CASES)
def test_advice(tmp_path, name):
    case = CASES[name]
    path = tmp_path / case.file
    path.write_text(case.content)

    def source(options):
        return Source(case.format, path, options)

    with pytest.raises(DataError) as error:
        list(source(dict(case.before or {})))
    said = f"{error.value.expected} {error.value.hint}"
    assert case.advice in said
    if case.mended is not None:
        path.write_text(case.mended)
    followed = source({**(case.before or {}), **case.options})
    assert pairs(followed) == case.rows


@pytest.mark.parametrize("missing", ["question", "answer"])
def test_no_column_is_suggested_that_is_read_already(tmp_path, missing):
    """Question and answer of one column would train rows on themselves."""
    other = {"question": "answer", "answer": "question"}[missing]
    (tmp_path / "x.jsonl").write_text(lines({f"{other}": "a", "id": 1}))
    source = Source("qa", tmp_path / "x.jsonl", {missing: f"{other}s"})
    with pytest.raises(DataError) as error:
        list(source)
    assert "perhaps" not in str(error.value)


@pytest.mark.parametrize("value", [True, None, {"0": "a", "1": "b"}, {}])
def test_no_part_is_suggested_where_there_is_none(tmp_path, value):
    (tmp_path / "x.jsonl").write_text(lines({"question": "a", "answer": value}))
    with pytest.raises(DataError) as error:
        list(Source("qa", tmp_path / "x.jsonl"))
    assert "answer.0" not in str(error.value)
    assert "answer.text" not in str(error.value)
