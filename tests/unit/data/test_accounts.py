"""Every row of every file is used, held to the end, or left out for a reason that is counted."""

from __future__ import annotations

import json

import pytest
from support.bad_inputs import BAD, GOOD

from rlhf.cli import main
from rlhf.data.formats.faults import NAMES, OTHERS, Faults, is_read
from rlhf.data.formats.source import FORMATS, Source, class_of
from rlhf.errors import DataError, RlhfError
from rlhf.pages.data_page import advice


def reads_of(name, faults=None, **options):
    """A format, which says what it reads."""
    return class_of(name)(faults or Faults("x"), **{**GOOD[name][0], **options})


class Watched(dict):
    """A row that knows which of its columns were asked for."""

    def __init__(self, row):
        super().__init__(row)
        self.asked = set()

    def __getitem__(self, key):
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key, default=None):
        self.asked.add(key)
        return super().get(key, default)


def write(path, *lines):
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


GOOD_ROW = {"question": "a", "answer": "b"}


class TestAccounts:
    def test_of_each_file(self, tmp_path):
        write(tmp_path / "a.jsonl", GOOD_ROW, "{", {"question": "a", "answer": ""}, [], GOOD_ROW)
        write(tmp_path / "b.csv", "question,answer", "a,b", "a", "a,")
        write(tmp_path / "c.tsv", "question\tanswer", "a\tb\tc")
        write(tmp_path / "d.jsonl")
        source = Source("qa", tmp_path, {"invalid": "drop", "exclude": ["a"]})
        with pytest.raises(DataError, match="No row is left"):
            list(source)
        assert {name: one.as_dict() for name, one in source.files.items()} == {
            "a.jsonl": {"rows": 5, "used": 0, "left_out": {
                "excluded": 2, "json": 1, "not_an_object": 1, "text_empty": 1}},
            "b.csv": {"rows": 3, "used": 0, "left_out": {
                "csv_columns": 1, "excluded": 1, "text_empty": 1}},
            "c.tsv": {"rows": 1, "used": 0, "left_out": {"csv_columns": 1}},
            "d.jsonl": {"rows": 0, "used": 0},
        }  # fmt: skip
        assert source.faults.noticed["empty_file"] == 1

    def test_a_row_that_stands_for_several_is_used_if_one_is_good(self, tmp_path):
        path = write(tmp_path / "a.jsonl", {"question": "a", "answer": ["b", ""]},
                     {"question": "a", "answer": []})  # fmt: skip
        source = Source("qa", path, {"each": ["answer"], "invalid": "drop"})
        list(source)
        assert source.files["a.jsonl"].as_dict() == {
            "rows": 2, "used": 1, "left_out": {"empty_list": 1}
        }  # fmt: skip

    @pytest.mark.parametrize("name", [name for name, bad in BAD.items() if bad.reason])
    def test_every_bad_row_is_counted_in_its_file(self, tmp_path, name):
        bad = BAD[name]
        path = write(tmp_path / "a.jsonl", *bad.rows)
        source = Source(bad.format, path, {**bad.options, "invalid": "drop"})
        list(source)
        account = source.files["a.jsonl"]
        assert account.is_even()
        assert account.rows == 2
        assert account.held == 0
        assert account.left_out.total() + account.used == 2

    def test_a_format_that_loses_a_row_is_found_out(self, tmp_path, monkeypatch):
        path = write(tmp_path / "a.jsonl", GOOD_ROW, GOOD_ROW)
        source = Source("qa", path)
        rows = source._format.rows
        monkeypatch.setattr(
            source._format, "rows", lambda one: rows(one) if source.faults.line == 1 else []
        )
        with pytest.raises(RlhfError, match="neither used a row nor counted why") as error:
            list(source)
        assert "a.jsonl:2" in str(error.value)

    def test_rows_that_are_held_must_come_to_something(self, tmp_path, monkeypatch):
        options, row = GOOD["comparison"]
        path = write(tmp_path / "a.jsonl", row, row)
        source = Source("comparison", path, {**options, "merge": True})
        assert len(list(source)) == 3
        assert source.files["a.jsonl"].as_dict() == {"rows": 2, "used": 2}
        source = Source("comparison", path, {**options, "merge": True})
        monkeypatch.setattr(source._format, "finish", lambda: [])
        with pytest.raises(RlhfError, match=r"neither used a row .*\n.*a.jsonl, 2 rows"):
            list(source)

    def test_messages_one_by_one_are_settled_in_the_files_that_they_are_of(self, tmp_path):
        def message(name, parent=None, role="assistant", rank=None, **more):
            return {"message_id": name, "parent_id": parent, "role": role, "text": name,
                    "rank": rank} | more  # fmt: skip

        write(
            tmp_path / "a.jsonl",
            message("p", role="prompter"),
            message("x", "p", rank=0),
            message("y", "p", rank=1, deleted=True),
            message("p2", role="prompter"),
            message("z", "nobody"),
        )
        write(
            tmp_path / "b.jsonl",
            message("under", "y", role="prompter"),
            message("deeper", "under", deleted=True),
            message("x", "p", rank=2),
            message("w", "p", rank=3, role="prompter"),
            message("c", "c"),
            {"message_id": 3},
        )
        source = Source("oasst", tmp_path, {"invalid": "drop"})
        assert {row.id for row in source} == {"p", "x"}
        assert {name: one.as_dict() for name, one in source.files.items()} == {
            "a.jsonl": {"rows": 5, "used": 2, "left_out": {
                "deleted": 1, "no_assistant": 1, "parent_missing": 1}},
            "b.jsonl": {"rows": 6, "used": 0, "left_out": {
                "below_left_out": 2, "duplicate_id": 1, "id_missing": 1, "parent_circle": 1,
                "role_repeated": 1}},
        }  # fmt: skip

    def test_rows_of_merged_lists_are_settled_by_what_is_left_of_them(self, tmp_path):
        rows = [{"prompt": "q", "response": text, "score": score} for text, score in
                (("a", 3), ("b", 3), ("c", 1), ("a", 2))]  # fmt: skip
        source = Source("scored", write(tmp_path / "a.jsonl", *rows))
        list(source)
        assert source.files["a.jsonl"].as_dict() == {
            "rows": 4, "used": 2, "left_out": {"duplicate_reply": 1, "tie": 1}
        }  # fmt: skip
        rows = [{"prompt": "q", "completion": text, "label": label} for text, label in
                (("a", True), ("b", True), ("b", False), ("c", False))]  # fmt: skip
        source = Source("labelled", write(tmp_path / "b.jsonl", *rows), {"pairs": True})
        list(source)
        assert source.files["b.jsonl"].as_dict() == {
            "rows": 4, "used": 2, "left_out": {"duplicate_reply": 1, "label_differs": 1}
        }  # fmt: skip

    def test_what_is_read_of_a_part_of_the_rows(self, tmp_path):
        source = Source("qa", write(tmp_path / "a.jsonl", *[GOOD_ROW] * 9))
        rows = iter(source)
        next(rows)
        assert source.files["a.jsonl"].as_dict() == {"rows": 1, "used": 1}


class TestUnread:
    def test_every_format_says_what_it_reads(self):
        for name in FORMATS:
            assert class_of(name)(Faults("x"), **GOOD[name][0]).reads

    @pytest.mark.parametrize("name", FORMATS)
    def test_a_column_that_nobody_knows_is_named(self, tmp_path, name):
        reads_of(name)
        options, row = GOOD[name]
        others = {"unheard of": 0, "empty": "", "null": None, "list": [], "object": {}}
        source = Source(name, write(tmp_path / "a.jsonl", row | others), options)
        list(source)
        assert source.faults.unread["unheard of"] == 1
        assert not {"empty", "null", "list", "object", *row} & set(source.faults.unread)

    @pytest.mark.parametrize(
        "name", [name for name, bad in BAD.items() if bad.rows and bad.format in FORMATS]
    )
    def test_no_format_reads_more_than_it_says(self, name):
        """What it does not say it reads is not decoded in a Parquet file."""
        bad = BAD[name]
        general = ("invalid", "field", "delimiter", "exclude")
        options = {key: value for key, value in bad.options.items() if key not in general}
        made = reads_of(bad.format, Faults("a", drop=True), **options)
        for one in bad.rows:
            row = Watched(one)
            made.rows(row)
            assert [key for key in row.asked & set(row) if not is_read(key, made.reads)] == []

    def test_names_do_not_grow_without_end(self):
        faults = Faults("a")
        for i in range(NAMES + 5):
            faults.count_unread(f"key {i}")
        assert len(faults.unread) == NAMES + 1
        assert faults.unread[OTHERS] == 5
        faults.count_unread("key 0")
        assert faults.unread["key 0"] == 2

    def test_a_name_that_cannot_be_written_can(self):
        faults = Faults("a")
        faults.count_unread("x\ud800")
        assert faults.unread == {"x\\ud800": 1}

    @pytest.mark.parametrize(
        ("format", "column", "said"),
        [
            ("messages", "system", "`options.system: system` reads it"),
            ("messages", "system_prompt", "`options.system: system_prompt` reads it"),
            ("qa", "weight", "no option of `qa` reads it"),
            ("oasst", "lang", "no option of `oasst` reads it"),
            ("qa", "source", ""),
        ],
    )
    def test_advice(self, format, column, said):
        assert said in advice(format, column)
        assert bool(advice(format, column)) == bool(said)

    def test_the_advice_reads_the_column(self, tmp_path):
        row = GOOD["messages"][1] | {"system_prompt": "Be brief."}
        option, _, value = advice("messages", "system_prompt").split("`")[1].partition(": ")
        options = {option.removeprefix("options."): value}
        found = list(Source("messages", write(tmp_path / "a.jsonl", row), options))
        assert found[0].messages[0].content == "Be brief."


class TestCheck:
    @pytest.fixture
    def check(self, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)

        def check(options="{}", rows=()):
            config = tmp_path / "mine.yaml"
            entry = f"{{path: set, format: qa, options: {options}}}"
            config.write_text(f"models: {{}}\ndatasets: {{mine: {entry}}}\n")
            assert main(["data", "check", "mine", "--config", str(config), *rows]) == 0
            return capsys.readouterr().out

        (tmp_path / "set").mkdir()
        return check

    def test_files_are_listed(self, check, tmp_path):
        write(tmp_path / "set" / "train.jsonl", GOOD_ROW, "{", GOOD_ROW)
        write(tmp_path / "set" / "test.jsonl", GOOD_ROW)
        write(tmp_path / "set" / "README.md", "# Set")
        text = check("{invalid: drop}")
        assert "  train.jsonl: 3 rows, 2 used, left out: json 1\n" in text
        assert "files that are not read:\n  README.md: beside the rows" in text
        assert "  test.jsonl: for evaluation by its name, beside files for training; " in text

    def test_many_files_are_summed_up(self, check, tmp_path):
        for i in range(25):
            write(tmp_path / "set" / f"{i}.jsonl", GOOD_ROW)
            write(tmp_path / "set" / f"{i}.png", "x")
        text = check()
        assert "  all 25 files: 25 rows, 25 used\n" in text
        assert "  and 5 more\n" in text
        assert text.count(": 1 rows, 1 used") == 20

    def test_columns_that_are_not_read(self, check, tmp_path):
        reads_of("qa")
        write(tmp_path / "set" / "a.jsonl", GOOD_ROW | {"weight": 0, "source": "x"}, GOOD_ROW)
        text = check()
        assert "columns that `qa` does not read, and in how many rows they hold something:" in text
        assert "  source: 1\n  weight: 1; it may change what a row means" in text
