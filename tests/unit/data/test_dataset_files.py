"""Files that a dataset is read from: kinds, packings, folders, globs, and what `datasets` saved."""

from __future__ import annotations

import gzip
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf.config.load import load_config
from rlhf.data.files import find_files
from rlhf.data.formats import lines as lines_module
from rlhf.data.formats.source import Source, load
from rlhf.data.names import kind_of
from rlhf.errors import DataError
from rlhf.pipeline.slices import config_slice, local_source

ROWS = [
    {"question": 'one, "two"\nthree', "answer": "ä\u2028🙂"},
    {"question": " spaces ", "answer": "tab\tand\rreturn"},
    {"question": "q" * 200_000, "answer": "a"},
]
PAIRS = [(row["question"], row["answer"]) for row in ROWS]


def lines(rows, **options):
    return "".join(json.dumps(row, **options) + "\n" for row in rows).encode()


def as_csv(rows, delimiter=","):
    cells = [["question", "answer"], *([row["question"], row["answer"]] for row in rows)]
    quoted = (delimiter.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in cells)
    return "\r\n".join([*quoted, ""]).encode()


def binary(write):
    sink = pa.BufferOutputStream()
    write(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue().to_pybytes()


def stream(table, sink):
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def file(table, sink):
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def zstd(content):
    return pa.compress(content, codec="zstd", asbytes=True)


# name → (content, whether the rows' ids are their lines)
CONTENTS = {
    "rows.jsonl": lines(ROWS),
    "rows.ndjson": lines(ROWS, ensure_ascii=False),
    "rows.JSON": lines(ROWS),
    "rows": lines(ROWS),
    "blank.jsonl": lines(ROWS).replace(b"\n", b"\r\n\r\n"),
    "mark.jsonl": b"\xef\xbb\xbf" + lines(ROWS),
    "list.json": json.dumps(ROWS).encode(),
    "list-indented.json": b"\xef\xbb\xbf" + json.dumps(ROWS, indent=2).encode(),
    "list-in-jsonl.jsonl": json.dumps(ROWS).encode(),
    "rows.jsonl.gz": gzip.compress(lines(ROWS)),
    "named-otherwise.jsonl": gzip.compress(lines(ROWS)),
    "rows.jsonl.zst": zstd(lines(ROWS)),
    "list.json.zst": zstd(json.dumps(ROWS).encode()),
    "rows.csv": as_csv(ROWS),
    "mark.csv": b"\xef\xbb\xbf" + as_csv(ROWS),
    "rows.tsv": as_csv(ROWS, "\t"),
    "rows.csv.gz": gzip.compress(as_csv(ROWS)),
    "rows.parquet": binary(pq.write_table),
    "stream.arrow": binary(stream),
    "file.arrow": binary(file),
}


def pairs(rows):
    return [tuple(one.content for one in row.messages) for row in rows.conversations]


@pytest.mark.parametrize("name", CONTENTS)
def test_kind(tmp_path, name):
    (tmp_path / name).write_bytes(CONTENTS[name])
    assert pairs(load("qa", tmp_path / name)) == PAIRS


def test_list_under_a_key(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps({"version": 1, "data": {"rows": ROWS}}, indent=1))
    assert pairs(load("qa", path, {"field": "data.rows"})) == PAIRS


def test_zstd_in_two_frames(tmp_path):
    path = tmp_path / "rows.jsonl.zst"
    path.write_bytes(zstd(lines(ROWS[:1])) + zstd(lines(ROWS[1:])))
    assert pairs(load("qa", path)) == PAIRS


def test_text_file_is_one_document(tmp_path):
    (tmp_path / "a.txt").write_text("One.\n\nTwo.\n", encoding="utf-8")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"Drei."))
    rows = load("text", tmp_path)
    assert [(one.id, one.messages[0].content) for one in rows.conversations] == [
        ("a.txt:1/1", "One.\n\nTwo."),
        ("b.txt.gz:1/1", "Drei."),
    ]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.jsonl", ".jsonl"), ("a.CSV.GZ", ".csv"), ("a.parquet", ".parquet"), ("a.md", ""),
     ("a.gz", ""), ("a.b.json.zst", ".json")],
)  # fmt: skip
def test_kinds_by_name(tmp_path, name, kind):
    assert kind_of(tmp_path / name) == kind


class TestFolders:
    @pytest.fixture
    def folder(self, tmp_path):
        folder = tmp_path / "set"
        for i, name in enumerate(["b.jsonl", "a/x.jsonl.gz", "a/y.csv"]):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            row = [{"question": name, "answer": str(i)}]
            content = as_csv(row) if "csv" in name else lines(row)
            (folder / name).write_bytes(gzip.compress(content) if "gz" in name else content)
        (folder / "README.md").write_text("# Set")
        (folder / ".cache").mkdir()
        (folder / ".cache" / "old.jsonl").write_text("{}")
        return folder

    def test_all_files_of_known_kinds_by_name(self, folder):
        rows = load("qa", folder)
        assert [one.messages[0].content for one in rows.conversations] == [
            "a/x.jsonl.gz",
            "a/y.csv",
            "b.jsonl",
        ]

    def test_ids_tell_files_apart(self, folder):
        ids = [one.id for one in load("qa", folder).conversations]
        assert ids == ["a/x.jsonl.gz:1", "a/y.csv:2", "b.jsonl:1"]

    def test_chosen_files_in_the_order_of_the_patterns(self, folder):
        rows = load("qa", folder, files=["b.jsonl", "a/*.gz", "*.jsonl"])
        assert [one.id for one in rows.conversations] == ["b.jsonl:1", "a/x.jsonl.gz:1"]

    @pytest.mark.parametrize("pattern", ["set/**/*.csv", "s?t/a/*.csv", "set/[a]/y.csv"])
    def test_glob(self, folder, pattern):
        rows = load("qa", folder.parent / pattern)
        assert [one.messages[0].content for one in rows.conversations] == ["a/y.csv"]

    def test_file_whose_name_looks_like_a_glob(self, tmp_path):
        (tmp_path / "a[1].jsonl").write_bytes(lines(ROWS))
        rows = load("qa", tmp_path / "a[1].jsonl")
        assert [one.id for one in rows.conversations] == ["1", "2", "3"]

    def test_fault_names_its_own_file(self, folder):
        (folder / "a" / "z.jsonl").write_text('{"question": 1}\n')
        with pytest.raises(DataError) as error:
            load("qa", folder)
        assert "a/z.jsonl:1, column question" in str(error.value)

    @pytest.mark.parametrize(
        ("path", "files", "words"),
        [
            ("nothing", None, ["does not exist", "put the file there"]),
            ("set/*.parquet", None, ["No file matches", "holds: README.md, a/x.jsonl.gz"]),
            ("no/*.jsonl", None, ["No file matches", "no folder"]),
            ("set", ["train/*"], ["matches 'train/*'", "a file for each of `files`", "b.jsonl"]),
            ("empty", None, ["holds no data", ".parquet", "empty is empty"]),
            ("other", None, ["holds no data", "holds: notes.md"]),
        ],
    )
    def test_nothing_is_found(self, folder, path, files, words):
        (folder.parent / "empty").mkdir()
        (folder.parent / "other").mkdir()
        (folder.parent / "other" / "notes.md").write_text("x")
        with pytest.raises(DataError) as error:
            find_files(folder.parent / path, files)
        for word in [str(folder.parent), *words]:
            assert word in str(error.value)


class TestSavedByDatasets:
    def test_dataset(self, tmp_path):
        datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved", num_shards=2)
        assert sorted(pairs(load("qa", tmp_path / "saved"))) == sorted(PAIRS)

    def test_splits(self, tmp_path):
        splits = {"train": datasets.Dataset.from_list(ROWS[:2]),
                  "test": datasets.Dataset.from_list(ROWS[2:])}  # fmt: skip
        datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
        assert pairs(load("qa", tmp_path / "saved")) == PAIRS[:2]
        only = load("qa", tmp_path / "saved", files=["test/*.arrow"])
        assert pairs(only) == PAIRS[2:]

    def test_nested_columns(self, tmp_path):
        rows = [{"messages": [{"role": "user", "content": "a"},
                              {"role": "assistant", "content": "b"}]}]  # fmt: skip
        datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
        assert pairs(load("messages", tmp_path / "saved")) == [("a", "b")]

    def test_a_missing_shard(self, tmp_path):
        datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved", num_shards=2)
        next((tmp_path / "saved").glob("*.arrow")).unlink()
        with pytest.raises(DataError, match="lacks its file data-0000"):
            load("qa", tmp_path / "saved")

    @pytest.mark.parametrize("content", ["{", "{}", '{"_data_files": 3}', "[]"])
    def test_damaged(self, tmp_path, content):
        datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
        (tmp_path / "saved" / "state.json").write_text(content)
        with pytest.raises(DataError, match="damaged"):
            load("qa", tmp_path / "saved")


def test_place_of_a_fault_in_a_binary_file(tmp_path):
    table = pa.Table.from_pylist([{"question": "a", "answer": one} for one in ("b", "c", None)])
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError) as error:
        list(Source("qa", tmp_path / "rows.parquet", dataset="mine"))
    assert "datasets.mine: " in str(error.value)
    assert "rows.parquet, row 3, column answer" in str(error.value)


def test_place_of_a_fault_in_a_list_and_in_csv(tmp_path):
    rows = [*ROWS[:1], {"question": "a", "answer": ""}]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "a.csv").write_bytes(as_csv(rows))
    for name, place in (("a.json", "a.json:6"), ("a.csv", "a.csv:4")):
        with pytest.raises(DataError) as error:
            load("qa", tmp_path / name)
        assert f"{place}, column answer" in str(error.value)


def test_large_files_are_not_held_in_memory(tmp_path):
    """Rows come before the file is read to its end."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines(ROWS[1:2]) * 50_000 + b"{")
    assert next(iter(Source("qa", path))).messages[0].content == " spaces "


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_a_list_is_the_same_in_pieces_of_any_size(tmp_path, monkeypatch, chunk, indent):
    rows = [*ROWS[:2], {"question": "[{", "answer": "}]"}, {"question": "q", "answer": "é" * 99}]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=indent), encoding="utf-8-sig")
    monkeypatch.setattr(lines_module, "CHUNK", chunk)
    assert pairs(load("qa", path)) == [(row["question"], row["answer"]) for row in rows]


@pytest.mark.parametrize("chunk", [5, 1 << 20])
@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('[{"a": 1},\n {"a": 2,}]', ":2:"),
        ('[\n{"a": 1}\n{"a": 2}]', ":3:1"),
        ('[{"a": 1}', ":1:10"),
        ('[{"a": 1},', ":1:11"),
        ("[", ":1:2"),
        ('[{"a": 1}]\n\n{}', ":1"),
    ],
)
def test_place_where_a_list_is_broken(tmp_path, monkeypatch, chunk, text, place):
    path = tmp_path / "rows.json"
    path.write_text(text)
    monkeypatch.setattr(lines_module, "CHUNK", chunk)
    with pytest.raises(DataError) as error:
        load("qa", path, {"question": "{a}", "answer": "{a}"})
    assert f"rows.json{place}" in str(error.value)


def test_large_lists_and_tables_are_not_held_in_memory(tmp_path):
    """Rows come before the file is read to where it is broken."""
    (tmp_path / "a.json").write_bytes(b"[" + lines(ROWS[1:2]).replace(b"\n", b",") * 50_000 + b"!")
    (tmp_path / "a.csv").write_bytes(as_csv(ROWS[1:2] * 50_000) + b"\xff")
    for name in ("a.json", "a.csv"):
        assert next(iter(Source("qa", tmp_path / name))).messages[0].content == " spaces "
        with pytest.raises(DataError):
            list(Source("qa", tmp_path / name))


class TestSlices:
    """A folder or a glob counts by the content of the files that are read."""

    def content(self, path, **more):
        entry = {"path": str(path), "format": "qa", **more}
        values = {"models": {}, "datasets": {"mine": entry}}
        return config_slice(load_config(values), "fetch_data", "mine").get("content")

    def test_files_that_are_not_read_do_not_count(self, tmp_path):
        (tmp_path / "a.jsonl").write_text("1")
        glob = tmp_path / "*.jsonl"
        before = self.content(glob), self.content(tmp_path, files=["a*"])
        (tmp_path / "b.csv").write_text("2")
        assert (self.content(glob), self.content(tmp_path, files=["a*"])) == before
        (tmp_path / "a.jsonl").write_text("3")
        after = self.content(glob), self.content(tmp_path, files=["a*"])
        assert not set(after) & set(before)
        assert None not in before

    def test_what_is_not_there_does_not_count(self, tmp_path):
        assert self.content(tmp_path / "no" / "*.jsonl") is None
        assert self.content(tmp_path / "*.jsonl") is None

    def test_images_see_the_folder_of_a_glob(self, tmp_path):
        assert local_source({"path": str(tmp_path / "**" / "*.jsonl")}) == tmp_path
