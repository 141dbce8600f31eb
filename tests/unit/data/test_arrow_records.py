"""Parquet and Arrow: columns that are read, and columns that are not."""

from __future__ import annotations

import datetime
import decimal
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.bad_inputs import GOOD

from rlhf.data.formats.faults import Faults
from rlhf.data.formats.records import read_records
from rlhf.data.formats.source import FORMATS, Source
from rlhf.errors import DataError

READS = {"question", "answer"}
FAR = pa.array([1 << 50] * 3, pa.timestamp("s"))  # beyond the year 9999
TEXTS = {"question": ["a", "b", "c"], "answer": ["d", "e", "f"]}


def parquet(table, path):
    pq.write_table(table, path, row_group_size=2)


def without_statistics(table, path):
    pq.write_table(table, path, row_group_size=2, write_statistics=False)


def stream(table, path):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, 2)


def file(table, path):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, 2)


WRITERS = [parquet, without_statistics, stream, file]


def read(table, path, write, reads=READS):
    path = path / ("rows.parquet" if write in WRITERS[:2] else "rows.arrow")
    write(table, path)
    faults = Faults(path, dataset="mine")
    faults.reads = reads
    return [(faults.line, record) for record in read_records(path, faults)], faults


@pytest.mark.parametrize("write", WRITERS)
class TestUnread:
    def test_columns_of_every_type_are_counted_and_not_converted(self, tmp_path, write):
        table = pa.table(
            TEXTS
            | {
                "far": FAR,
                "price": [decimal.Decimal("1.5"), None, None],
                "kind": pa.array(["x", None, "y"]).dictionary_encode(),
                "map": pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int64())),
                "turns": [[{"role": "user", "at": 1}], None, []],
                "nothing": pa.nulls(3),
                "empty": pa.array([None] * 3, pa.string()),
            }
        )
        found, faults = read(table, tmp_path, write)
        assert [(line, one["question"], one["answer"]) for line, one in found] == [
            (1, "a", "d"), (2, "b", "e"), (3, "c", "f")
        ]  # fmt: skip
        assert faults.unread == {"far": 3, "price": 1, "kind": 2, "map": 2, "turns": 2}

    def test_names_are_known_where_a_column_is_missing(self, tmp_path, write):
        found, _ = read(pa.table({"qestion": ["a"], "far": FAR[:1]}), tmp_path, write)
        assert found == [(1, {"qestion": None, "far": None})]

    def test_a_part_of_a_column_and_a_name_with_a_dot(self, tmp_path, write):
        table = pa.table({"a.b": ["x"], "c": [{"d": "y", "e": None}], "f.g": [1]})
        found, faults = read(table, tmp_path, write, {"a.b", "a", "c.d", "c"})
        assert found == [(1, {"a.b": "x", "c": {"d": "y", "e": None}, "f.g": None})]
        assert faults.unread == {"f.g": 1}


@pytest.mark.parametrize("write", WRITERS)
class TestRead:
    def test_a_value_that_python_has_none_for(self, tmp_path, write):
        table = pa.table(TEXTS | {"question": pa.array([0, 1, 1 << 50], pa.timestamp("s"))})
        with pytest.raises(DataError) as error:
            read(table, tmp_path, write)
        for word in ("Column `question`", "timestamp[", "row 3, column question", str(tmp_path)):
            assert word in str(error.value)

    def test_two_columns_of_one_name(self, tmp_path, write):
        table = pa.Table.from_arrays([pa.array(["a"])] * 3, ["question", "answer", "answer"])
        with pytest.raises(DataError, match="Two columns have the name 'answer'"):
            read(table, tmp_path, write)

    def test_other_types_are_what_they_are(self, tmp_path, write):
        table = pa.table(
            {
                "question": pa.array(["x", "y"]).dictionary_encode(),
                "answer": pa.array(["v", "w"], pa.large_string()),
            }
        )
        assert [one for _, one in read(table, tmp_path, write)[0]] == [
            {"question": "x", "answer": "v"}, {"question": "y", "answer": "w"}
        ]  # fmt: skip

    def test_no_rows(self, tmp_path, write):
        assert read(pa.table(TEXTS).slice(0, 0), tmp_path, write)[0] == []


def test_a_stream_that_is_cut_between_batches_is_noticed(tmp_path):
    path = tmp_path / "rows.arrow"
    stream(pa.table(TEXTS), path)
    source = Source("qa", path)
    assert len([row for row in source if hasattr(row, "messages")]) == 3
    assert not source.faults.noticed
    with pa.memory_map(str(path)) as whole:
        pa.ipc.open_stream(whole).read_next_batch()
        end = whole.tell()  # of the first batch, or after the beginning of the next
    content = path.read_bytes()
    lengths = [n for n in range(end, len(content)) if _reads(content[:n], tmp_path)]
    for n in lengths:
        path.write_bytes(content[:n])
        source = Source("qa", path)
        list(source)
        assert source.faults.noticed == {"no_end_mark": 1}
    assert lengths


def _reads(content, folder):
    (folder / "try.arrow").write_bytes(content)
    try:
        return bool(list(Source("qa", folder / "try.arrow")))
    except DataError:
        return False


def test_a_date_as_a_text_is_a_fault_of_the_row(tmp_path):
    table = pa.table({"question": [datetime.date(2020, 1, 1)], "answer": ["a"]})
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="row 1, column question"):
        list(Source("qa", tmp_path / "rows.parquet"))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_reads_the_same_from_parquet(tmp_path, name):
    options, row = GOOD[name]
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    lines = list(Source(name, tmp_path / "rows.jsonl", options))
    assert list(Source(name, tmp_path / "rows.parquet", options)) == lines != []
