"""Smaller things that docs/data.md says of formats."""

from __future__ import annotations

import pytest
from support.oasst_trees import user as prompter
from support.read_rows import said

from rlhf.data.formats.source import Source
from rlhf.errors import DataError


@pytest.mark.parametrize(
    ("name", "row", "options"),
    [
        ("scored", {"prompt": "p", "response": "{}", "score": 1}, {}),
        ("labelled", {"prompt": "p", "completion": "{}", "label": True}, {"pairs": True}),
        ("comparison", {"prompt": "p", "answer_0": "{}", "answer_1": "b", "s": 1, "t": 2},
         {"scores": ["s", "t"], "merge": True}),
        ("oasst", {**prompter("{}"), "tree_state": "prompt_lottery_waiting"}, {}),
    ],
)  # fmt: skip
def test_what_is_held_to_the_end(write_lines, name, row, options):
    """No row comes before the last line is read."""
    records = [
        {key: value.replace("{}", f"{i}") if isinstance(value, str) else value
         for key, value in row.items()}
        for i in range(3)
    ]  # fmt: skip
    assert list(Source(name, write_lines(*records), options))
    with pytest.raises(DataError, match=r"data\.jsonl:4"):
        next(iter(Source(name, write_lines(*records, "{"), options)))


@pytest.mark.parametrize("name", ["qa", "summary"])
def test_words_are_what_spaces_divide(read, name):
    key, answer = {"qa": ("question", "answer"), "summary": ("text", "summary")}[name]
    records = [{key: one, answer: "s"} for one in ("a b\nc d", "a b\nc", "a")]
    faults, rows = read(name, *records, max_words=2, prompts=["{}"])
    assert [said(one)[0][1] for one in rows[1::2]] == ["a b\nc", "a b\nc", "a"]
    assert faults.noticed == {"cut": 1}


def test_translations_in_another_column(rows_of):
    row = {"both": {"de": "Tag", "en": "Day"}}
    rows = rows_of("translation", row, pair="de-en", direction="forward", column="both")
    assert said(rows.conversations[0])[-1] == ("a", "Day")
