"""JSON that is more, or other, than one object a line."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from rlhf.data.formats import json_text
from rlhf.data.formats import lines as lines_module
from rlhf.data.formats.faults import Faults
from rlhf.data.formats.records import read_records
from rlhf.data.formats.source import load
from rlhf.errors import DataError

ROWS = [{"question": f"q{i}", "answer": "a{}[]"} for i in range(5)]
READS = {"question", "answer"}


@pytest.fixture
def records(tmp_path):
    """Reads a text as a format would that reads question and answer: records, and faults."""

    def records(text, name="rows.json", field=None, drop=False, reads=READS):
        path = tmp_path / name
        path.write_text(text)
        faults = Faults(path, drop=drop, dataset="mine")
        faults.reads = reads
        found = [(faults.row_id, record) for record in read_records(path, faults, field)]
        return found, faults

    return records


class TestObjectsOneAfterAnother:
    @pytest.mark.parametrize("chunk", [7, 1 << 20])
    @pytest.mark.parametrize("indent", [None, 2])
    @pytest.mark.parametrize("between", ["\n", "", " ", "\n\n"])
    def test_are_rows(self, records, monkeypatch, chunk, indent, between):
        monkeypatch.setattr(lines_module, "CHUNK", chunk)
        text = between.join(json.dumps(row, indent=indent) for row in ROWS)
        found, _ = records(text)
        assert [record for _, record in found] == ROWS
        assert len({row_id for row_id, _ in found}) == 5

    def test_one_object_over_several_lines_is_a_row(self, records):
        found, _ = records(json.dumps(ROWS[0], indent=1))
        assert found == [("1", ROWS[0])]

    def test_two_on_a_later_line_are_a_fault_whose_advice_keeps_both(self, records):
        with pytest.raises(DataError, match="write what follows on its own line"):
            records('{"question": "a"}\n{"question": "b"}{"question": "c"}\n')
        found, _ = records('{"question": "a"}\n{"question": "b"}\n{"question": "c"}\n')
        assert len(found) == 3

    def test_rows_of_one_line_have_ids_of_their_own(self, tmp_path):
        reply = {"role": "assistant", "content": "a"}
        rows = [{"messages": [{"role": "user", "content": str(i)}, reply]} for i in range(3)]
        path = tmp_path / "rows.json"
        path.write_text(json.dumps(rows))
        found = load("messages", path).conversations
        assert [row.id for row in found] == ["1", "1#2", "1#3"]
        path.write_text(json.dumps(rows, indent=1))
        assert len({row.id for row in load("messages", path).conversations}) == 3


class TestFaults:
    @pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
    def test_a_key_that_occurs_twice(self, records, name):
        lines = ['{"question": "a"}', '{"x": {"y": 1, "z": [{}], "y": 2}}', '{"question": "b"}']
        text = "\n".join(lines) if name == "rows.jsonl" else f"[{','.join(lines)}]"
        with pytest.raises(DataError, match="The key y occurs twice in one object"):
            records(text, name)
        found, faults = records(text, name, drop=True)
        assert [record["question"] for _, record in found] == ["a", "b"]
        assert faults.dropped == {"duplicate_key": 1}
        assert faults.account.rows == 1
        assert faults.account.left_out == {"duplicate_key": 1}

    def test_a_key_that_occurs_twice_under_a_field(self, records):
        with pytest.raises(DataError, match="The key a occurs twice"):
            records('{"rows": [{"a": 1, "a": 2}]}', field="rows")

    def test_nan_is_nothing(self, records):
        found, _ = records('{"question": NaN, "answer": Infinity}\n')
        assert found == [("1", {"question": None, "answer": float("inf")})]

    def test_numbers_keep_every_digit(self, tmp_path):
        path = tmp_path / "rows.jsonl"
        path.write_text(f'{{"question": {2**80}, "answer": {10**30 + 1}}}\n')
        row = load("qa", path, {"question": "{question}", "answer": "{answer}"}).conversations[0]
        assert [one.content for one in row.messages] == [str(2**80), str(10**30 + 1)]

    def test_a_number_of_too_many_digits(self, records):
        text = '{"question": ' + "9" * 5000 + "}\n"
        with pytest.raises(DataError, match="too many digits"):
            records(text)
        found, faults = records(text + '{"question": "a"}\n', drop=True)
        assert len(found) == 1
        assert faults.dropped == {"json": 1}

    def test_a_last_line_that_is_cut(self, records):
        with pytest.raises(DataError, match="was the file cut off") as error:
            records('{"question": "a"}\n{"question": "b", "ans')
        assert "rows.json:2" in str(error.value)

    @pytest.mark.parametrize("depth", [5000, 200_000])
    def test_deep_nesting(self, records, depth):
        text = '{"question": "a"}\n{"x": ' + "[" * depth + "]" * depth + "}\n"
        found, faults = records(text, drop=True)
        assert len(found) == 1
        assert faults.account.left_out == {"nested": 1}

    def test_lists_of_lists(self, records):
        with pytest.raises(DataError, match="write each row as an object"):
            records('[["a", "b"], ["c", "d"]]')
        _, faults = records('[["a", "b"], ["c", "d"]]', drop=True)
        assert faults.account.left_out == {"not_an_object": 2}

    def test_the_advice_for_a_comma_after_each_object(self, records):
        text = "".join(json.dumps(row) + ",\n" for row in ROWS)
        with pytest.raises(DataError, match="leave out the comma after it"):
            records(text)
        assert len(records(text.replace("},\n", "}\n"))[0]) == 5
        spread = json.dumps(ROWS, indent=1)[1:-1]
        with pytest.raises(DataError, match="without commas between them"):
            records(spread)
        assert len(records(spread.replace("},\n", "}\n"))[0]) == 5

    def test_two_lists(self, records):
        with pytest.raises(DataError, match="write each list to a file of its own"):
            records(json.dumps(ROWS) + "\n" + json.dumps(ROWS))


@pytest.mark.parametrize("begin", ['{"question": "a', '[{"question": "a', '[{"a": 1} {"b": '])
def test_a_fault_is_found_without_the_rest_of_the_file(tmp_path, monkeypatch, begin):
    path = tmp_path / "rows.json"
    path.write_text(begin + "\n" + "".join(json.dumps(row) + "\n" for row in ROWS) * 5000)
    read = []

    def counted(path):
        for chunk in lines_module.read_chunks(path):
            read.append(len(chunk))
            yield chunk

    monkeypatch.setattr(lines_module, "CHUNK", 1000)
    monkeypatch.setattr(json_text, "read_chunks", counted)
    with pytest.raises(DataError):
        load("qa", path)
    assert sum(read) < 10_000


class TestOneObjectThatHoldsTheRows:
    @pytest.mark.parametrize("indent", [None, 1])
    @pytest.mark.parametrize("key", ["data", "rows", "train"])
    def test_the_advice_reads_them_all(self, records, indent, key):
        text = json.dumps({"version": 1, "authors": [{"name": "x"}], key: ROWS}, indent=indent)
        with pytest.raises(DataError) as error:
            records(text)
        assert f"`options.field`: {key}" in str(error.value)
        assert "the other lists are left" in str(error.value)
        found, _ = records(text, field=key)
        assert [record for _, record in found] == ROWS

    def test_the_advice_for_a_list_deep_inside(self, records):
        text = json.dumps({"answers": {"rows": ROWS}, "n": [1]})
        with pytest.raises(DataError) as error:
            records(text)
        field = str(error.value).rpartition(": ")[2]
        assert [record for _, record in records(text, field=field)[0]] == ROWS

    def test_a_row_that_holds_a_list_is_a_row(self, records):
        row = {"id": 1, "question": "a", "turns": [{"x": 1}]}
        assert records(json.dumps(row, indent=1))[0] == [("1", row)]

    @pytest.mark.parametrize("indent", [None, 1])
    def test_a_table_by_columns(self, records, tmp_path, indent):
        """`question.0` would read the first row, and lose the others."""
        frame = pd.DataFrame(ROWS)
        with pytest.raises(DataError) as error:
            records(frame.to_json(indent=indent or 0))
        assert 'to_json(orient="records", lines=True)' in str(error.value)
        assert len(records(frame.to_json(orient="records", lines=True))[0]) == 5
