"""What prompts keep of the rows that they are from."""

from __future__ import annotations

import json

import pytest
from support.written import write_rows

from rlhf.data.encoding import Encoder
from rlhf.data.formats.source import Source, load
from rlhf.data.rows import Prompt
from rlhf.data.rows_file import PromptsById, RowsFile
from rlhf.data.tokenizing import Limits, Tally, features_of, tokenize
from rlhf.errors import ConfigError, DataError, IntegrityError

# As GSM8K has its rows.
SUMS = [
    {"question": "What is 2 + 2?", "answer": "It is <<2+2=4>>4.\n#### 4", "level": 1},
    {"question": "What is 3 * 3?", "answer": "It is <<3*3=9>>9.\n#### 9", "level": {"of": [2]}},
]


@pytest.fixture
def sums(write_lines):
    return write_lines(*SUMS)


def options_of_qa(**more):
    return {"question": "question", "answer": "answer"} | more


def prompts(path, **options):
    return load("qa", path, options_of_qa(**options)).prompts


def test_columns_are_kept_as_they_stand(sums):
    kept = [json.loads(row.columns) for row in prompts(sums, keep=["answer", "level"])]
    assert kept == [{key: row[key] for key in ("answer", "level")} for row in SUMS]
    assert all(row.columns is row.reply is None for row in prompts(sums))


def test_columns_under_names_of_their_own(write_lines):
    path = write_lines(SUMS[0] | {"truth": {"value": 4}}, SUMS[1] | {"truth": {"value": 9}})
    kept = prompts(path, keep={"answer": "truth.value"})
    assert [row.columns for row in kept] == ['{"answer":4}', '{"answer":9}']
    source = Source("qa", path, options_of_qa(keep={"answer": "truth.value"}))
    list(source)
    assert dict(source.faults.unread) == {"level": 2}, "a column that is kept is read"


@pytest.mark.parametrize(
    ("row", "reason", "says"),
    [
        ({}, "column_missing", "no column `level`"),
        ({"level": None}, "column_empty", "Column `level` is empty"),
        ({"level": " "}, "column_empty", "Column `level` is empty"),
    ],
)
def test_a_row_without_the_column(write_lines, row, reason, says):
    bare = {key: SUMS[0][key] for key in ("question", "answer")}
    path = write_lines(SUMS[1], bare | row)
    with pytest.raises(DataError, match=says):
        prompts(path, keep=["level"])
    source = Source("qa", path, options_of_qa(keep=["level"], invalid="drop"))
    assert len([row for row in source if isinstance(row, Prompt)]) == 1
    assert source.faults.dropped == {reason: 1}


@pytest.mark.parametrize("keep", ["level", [1], {"a": 1}])
def test_wrong_options(sums, keep):
    with pytest.raises(ConfigError, match=r"options\.keep"):
        prompts(sums, keep=keep)
    with pytest.raises(ConfigError, match=r"options\.keep_reply"):
        prompts(sums, keep_reply="yes")


def test_the_own_reply(sums, write_lines):
    assert [row.reply for row in prompts(sums, keep_reply=True)] == [r["answer"] for r in SUMS]
    ranked = write_lines(
        {"prompt": "Hello?", "chosen": "Good day.", "rejected": "Go away."}, name="ranked.jsonl"
    )
    (row,) = load("preference", ranked, {"keep_reply": True}).prompts
    assert row.reply == "Good day."


def test_a_prompt_without_a_reply(write_lines):
    path = write_lines({"prompt": "a?", "completion": "b", "label": True},
                       {"prompt": "c?", "completion": "d", "label": False})  # fmt: skip
    with pytest.raises(DataError, match="no reply to its prompt"):
        load("labelled", path, {"keep_reply": True})
    kept = load("labelled", path, {"keep_reply": True, "invalid": "drop"}).prompts
    assert [row.reply for row in kept] == ["b"]


def test_rows_of_several_rows_keep_no_column(write_lines):
    path = write_lines({"prompt": "a?", "completion": "b", "label": True})
    with pytest.raises(ConfigError, match="makes prompts of several rows"):
        load("labelled", path, {"pairs": True, "keep": ["label"]})


def test_kept_parts_go_through_files_to_tokens(tmp_path, sums, make_tokenizer):
    rows = prompts(sums, keep=["level"], keep_reply=True)
    plain, full = tmp_path / "plain", tmp_path / "full"
    for folder in (plain, full):
        folder.mkdir()
    write_rows(plain, [(row, "train") for row in prompts(sums)])
    write_rows(full, [(row, "train") for row in rows], kept=("columns", "reply"))
    assert RowsFile(plain, "prompt").kept == []
    file = RowsFile(full, "prompt")
    assert [row for _, row in file.read(0)] == rows
    encoder = Encoder(make_tokenizer())
    limits = Limits("prompt", 200, "drop")
    samples = list(tokenize(rows, encoder, limits, Tally()))
    assert [set(sample) for sample in samples] == [set(features_of("prompt", file.kept))] * 2
    for sample, row in zip(samples, rows, strict=True):
        assert sample["columns"] == row.columns
        assert sample["own_reply_ids"] == encoder.reply(row.history, row.reply)
    plain_samples = list(tokenize(prompts(sums), encoder, limits, Tally()))
    assert [set(sample) for sample in plain_samples] == [set(features_of("prompt"))] * 2


def test_prompts_by_id(tmp_path, sums):
    rows = prompts(sums)
    write_rows(tmp_path, [(row, "train") for row in rows])
    known = PromptsById(tmp_path)
    assert [known.find(row.id) for row in reversed(rows)] == rows[::-1]
    with pytest.raises(IntegrityError, match="no prompt 'x'"):
        known.find("x")
