"""What docs/data.md says of all kinds of files, and where what was counted is written."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhf.cli import main
from rlhf.core.files import read_json
from rlhf.data.formats.source import Source, load
from rlhf.errors import DataError
from rlhf.stages import fetch_data
from rlhf.stages.stage import parse

ROW = {"question": "Grün?", "answer": "Ja: ä\u2028🙂"}
TEXTS = {
    ".jsonl": json.dumps(ROW, ensure_ascii=False) + "\n",
    ".ndjson": json.dumps(ROW) + "\n",
    ".json": json.dumps([ROW], ensure_ascii=False, indent=1),
    ".csv": 'question,answer\nGrün?,"Ja: ä\u2028🙂"\n',
    ".tsv": "question\tanswer\nGrün?\tJa: ä\u2028🙂\n",
    ".data": json.dumps(ROW) + "\n",
    "": json.dumps([ROW]),
}
PACK = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}


def pairs(rows):
    return [tuple(one.content for one in row.messages) for row in rows.conversations]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("named", [True, False])
def test_every_text_in_every_encoding_and_packing(tmp_path, encoding, packing, named):
    for ending, text in TEXTS.items():
        path = tmp_path / f"rows{ending}{packing if named else ''}"
        path.write_bytes(PACK[packing](text.encode(encoding)))
        assert pairs(load("qa", path)) == [tuple(ROW.values())], path.name
    path = tmp_path / f"a.txt{packing if named else ''}"
    path.write_bytes(PACK[packing]("Grün.\n\nJa.".encode(encoding)))
    (row,) = load("text", path).conversations
    assert row.messages[0].content == "Grün.\n\nJa."


def test_a_text_has_a_column_of_this_name(tmp_path):
    (tmp_path / "a.txt").write_text("One.")
    with pytest.raises(DataError, match="no column `body`; its columns are: text"):
        load("text", tmp_path / "a.txt", {"text": "body"})


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows"])
def test_the_list_of_an_object_in_files_of_any_json(tmp_path, name):
    (tmp_path / name).write_text(json.dumps({"a": {"b": [ROW]}, "c": [1]}))
    assert pairs(load("qa", tmp_path / name, {"field": "a.b"})) == [tuple(ROW.values())]


def test_rows_of_parquet_come_before_the_file_is_read_to_where_it_is_broken(tmp_path):
    path = tmp_path / "rows.parquet"
    table = pa.table({"question": [f"q{i}" * 40 for i in range(4000)], "answer": ["a"] * 4000})
    pq.write_table(table, path, row_group_size=1000, compression="none", use_dictionary=False)
    content = path.read_bytes()
    at = content.index(b"q3500")
    path.write_bytes(content[: at - 30_000] + bytes(60_000) + content[at + 30_000 :])
    rows = iter(Source("qa", path))
    assert next(rows).messages[0].content == "q0" * 40
    with pytest.raises(DataError):
        list(rows)


def test_rows_of_arrow_come_before_the_file_is_read_to_where_it_is_cut(tmp_path):
    path = tmp_path / "rows.arrow"
    table = pa.table({"question": [f"q{i}" * 40 for i in range(4000)], "answer": ["a"] * 4000})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    rows = iter(Source("qa", path))
    assert next(rows).messages[0].content == "q0" * 40
    with pytest.raises(DataError):
        list(rows)


@pytest.mark.parametrize("second", ["{", '{"question": "a"}', '{"question": "a", "answer": 3}'])
def test_the_first_faulty_row_is_an_error_that_says_all(tmp_path, second):
    for i, line in enumerate([second, "[]"]):
        (tmp_path / f"{i}.jsonl").write_text(f"{json.dumps(ROW)}\n{line}\n")
    with pytest.raises(DataError) as error:
        list(Source("qa", tmp_path, dataset="mine"))
    said = str(error.value)
    assert f"datasets.mine: {tmp_path}/0.jsonl:2" in said
    assert "expected: " in said
    assert "column answer" in said or second == "{"


@pytest.fixture
def mixed(tmp_path):
    """A folder in which something is dropped, filtered, noticed, unread and not read."""
    folder = tmp_path / "set"
    folder.mkdir()
    rows = [
        {"prompt": "p", "answer_0": "a", "answer_1": "b", "s0": 1, "s1": 0, "judge": "J"},
        {"prompt": "q", "answer_0": "a", "answer_1": "b", "s0": 1, "s1": 1, "persona": ""},
        {"prompt": "[INST] r", "answer_0": "a", "answer_1": "b", "s0": 1, "s1": 2, "weight": 2},
        {"prompt": "s", "answer_0": "", "answer_1": "b", "s0": 1, "s1": 2},
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    (folder / "train-2.jsonl").write_text("")
    for name in ("test.jsonl", "README.md", "notes.txt", ".hidden.jsonl", "x.png"):
        (folder / name).write_text(json.dumps(rows[0]))
    (folder / "gone.jsonl").symlink_to("nowhere")
    return folder


OPTIONS = {"scores": ["s0", "s1"], "invalid": "drop"}
NOT_READ = {"test.jsonl", "README.md", "notes.txt", ".hidden.jsonl", "x.png", "gone.jsonl"}


def test_what_was_counted_is_in_statistics_and_manifest(mixed, tmp_path):
    config = {"path": str(mixed), "format": "comparison", "options": OPTIONS}
    config |= {"validation_fraction": 0.0, "split_salt": ""}
    line = ["--name", "mine", "--config", json.dumps(config)]
    files = {"rows": "rows", "statistics": "statistics.json", "manifest": "manifest.json"}
    for role, name in files.items():
        line += ["--output", role, str(tmp_path / "out" / name)]
    fetch_data.run(parse(line)[0])
    statistics = read_json(tmp_path / "out/statistics.json")
    manifest = read_json(tmp_path / "out/manifest.json")
    for found in (statistics, manifest["counts"]):
        assert found["dropped"] == {"text_empty": 1}
        assert found["filtered"] == {"tie": 1}
        assert found["noticed"] == {"empty_file": 1, "templated": 1}
        assert found["unread"] == {"judge": 1, "weight": 1}
    assert set(statistics["not_read"]) == NOT_READ
    assert manifest["facts"]["not_read"] == statistics["not_read"]
    account = {"rows": 4, "used": 2, "left_out": {"text_empty": 1, "tie": 1}}
    assert statistics["files"] == {
        "train-2.jsonl": {"rows": 0, "used": 0}, "train.jsonl": account
    }  # fmt: skip
    assert manifest["counts"]["read"] == {**account, "files": 2}


def test_what_was_counted_is_shown(mixed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    entry = {"path": "set", "format": "comparison", "options": OPTIONS}
    config = tmp_path / "mine.yaml"
    config.write_text(json.dumps({"models": {}, "datasets": {"mine": entry}}))
    assert main(["data", "check", "mine", "--config", str(config)]) == 0
    text = capsys.readouterr().out
    for line in (
        "dropped:      text_empty 1",
        "filtered:     tie 1",
        "noticed:      empty_file 1, templated 1",
        "train.jsonl: 4 rows, 2 used, left out: text_empty 1, tie 1",
        "judge: 1\n",
        "weight: 1; it may change what a row means",
    ):
        assert line in text
    for name in NOT_READ:
        assert f"  {name}: " in text


def test_one_format_serves_all_views(tmp_path):
    pair = {"prompt": "p", "chosen": "better", "rejected": "worse"}
    (tmp_path / "a.jsonl").write_text(json.dumps(pair))
    rows = load("preference", tmp_path / "a.jsonl")
    assert [[m.content for m in row.messages] for row in rows.conversations] == [["p", "better"]]
    assert [row.replies for row in rows.preferences] == [("better", "worse")]
    assert [[m.content for m in row.history] for row in rows.prompts] == [["p"]]
