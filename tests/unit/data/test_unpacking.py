"""Packed files, other encodings, and files that are something else."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import shlex
import subprocess
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet
import pytest

from rlhf.data.formats.source import load
from rlhf.errors import DataError

ROWS = [{"question": f"Grün {i}?", "answer": "ä" * 40 + str(i)} for i in range(2000)]
TEXT = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
PAIRS = [(row["question"], row["answer"]) for row in ROWS]


def zstd(content):
    return pa.compress(content, codec="zstd", asbytes=True)


PACK = {"gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress, "zst": zstd}
TOOLS = {"gz": "gzip", "xz": "xz", "bz2": "bzip2", "zst": "zstd"}


def read(path, content, format="qa", **options):
    path.write_bytes(content)
    rows = load(format, path, options).conversations
    return [tuple(one.content for one in row.messages) for row in rows]


class TestPacked:
    @pytest.mark.parametrize("ending", PACK)
    @pytest.mark.parametrize("name", ["rows.jsonl.{}", "rows.jsonl"])
    def test_read_whatever_its_name(self, tmp_path, ending, name):
        packed = PACK[ending](TEXT.encode())
        assert read(tmp_path / name.format(ending), packed) == PAIRS

    @pytest.mark.parametrize("ending", PACK)
    def test_in_two_parts(self, tmp_path, ending):
        half = len(TEXT) // 2
        packed = b"".join(PACK[ending](one.encode()) for one in (TEXT[:half], TEXT[half:]))
        assert read(tmp_path / f"rows.jsonl.{ending}", packed) == PAIRS

    @pytest.mark.parametrize("ending", PACK)
    @pytest.mark.parametrize("invalid", ["error", "drop"])
    @pytest.mark.parametrize("damage", ["cut", "last byte", "second part", "rubbish after it"])
    def test_cut_or_damaged(self, tmp_path, ending, damage, invalid):
        half = len(TEXT) // 2
        first, second = (PACK[ending](one.encode()) for one in (TEXT[:half], TEXT[half:]))
        packed = {
            "cut": first[: len(first) // 2],
            "last byte": first[:-1],
            "second part": first + b"\x00\x01" + second[2:],
            "rubbish after it": first + b"rubbish",
        }[damage]
        with pytest.raises(DataError) as error:
            read(tmp_path / f"rows.jsonl.{ending}", packed, invalid=invalid)
        assert "cut short or damaged" in str(error.value)
        assert f"`{TOOLS[ending]} -t " in str(error.value)

    def test_zeros_between_parts_of_xz(self, tmp_path):
        half = len(TEXT) // 2
        parts = [lzma.compress(one.encode()) for one in (TEXT[:half], TEXT[half:])]
        assert read(tmp_path / "rows.jsonl.xz", parts[0] + bytes(8) + parts[1] + bytes(4)) == PAIRS

    def test_packed_twice(self, tmp_path):
        twice = gzip.compress(lzma.compress(TEXT.encode()))
        assert read(tmp_path / "rows.jsonl.gz", twice) == PAIRS

    def test_csv_and_texts(self, tmp_path):
        packed = bz2.compress(b"question,answer\nWhy?,So.\n")
        assert read(tmp_path / "rows.csv.bz2", packed) == [("Why?", "So.")]
        assert read(tmp_path / "a.txt.xz", lzma.compress(b"Words."), "text") == [("Words.",)]


def zipped():
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("rows.jsonl", TEXT)
    return sink.getvalue()


def tarred():
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        entry = tarfile.TarInfo("rows.jsonl")
        entry.size = len(TEXT.encode())
        archive.addfile(entry, io.BytesIO(TEXT.encode()))
    return sink.getvalue()


def parquet():
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(pa.Table.from_pylist(ROWS[:3]), sink)
    return sink.getvalue().to_pybytes()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n"


class TestSomethingElse:
    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("rows.jsonl", zipped, ["zip archive", "unzip it"]),
            ("excel.csv", zipped, ["zip archive", "save an Excel workbook as CSV UTF-8"]),
            ("rows.jsonl.gz", lambda: gzip.compress(zipped()), ["zip archive"]),
            ("rows.tar", tarred, ["tar archive", "tar -xf"]),
            ("rows.jsonl.gz", lambda: gzip.compress(tarred()), ["tar archive"]),
            ("rows.jsonl", lambda: b"7z\xbc\xaf\x27\x1c" + bytes(40), ["7z archive", "7z x"]),
            ("rows.jsonl", lambda: b"Rar!\x1a\x07\x01\x00" + bytes(40), ["rar archive"]),
            ("rows.jsonl", parquet, ["is Parquet", "name that ends with .parquet"]),
            ("rows.jsonl.gz", lambda: gzip.compress(parquet()), ["is Parquet", "unpack it, and"]),
            ("rows.parquet.gz", lambda: gzip.compress(parquet()), ["not Parquet", "`gzip -d`"]),
            ("rows.jsonl", lambda: POINTER, ["pointer of Git LFS", "git lfs pull"]),
            ("rows.txt", lambda: POINTER, ["pointer of Git LFS"]),
            ("rows.parquet", lambda: POINTER, ["not Parquet", "git lfs pull"]),
            ("rows.jsonl", lambda: b"\n<!DOCTYPE html><html>404", ["web page", "Download"]),
            ("rows.csv", lambda: b"<?xml version='1.0'?><Error/>", ["web page or XML"]),
            ("rows.jsonl", lambda: TEXT.encode() + bytes(512), ["bytes that are zero", ":2001"]),
            ("rows.csv", lambda: b"question,answer\na,b\0c\n", ["bytes that are zero", ":2"]),
            ("rows.json", lambda: b'[{"a": "' + bytes(9), ["bytes that are zero"]),
        ],
    )  # fmt: skip
    def test_is_refused_and_named(self, tmp_path, name, content, words):
        with pytest.raises(DataError) as error:
            read(tmp_path / name, content(), invalid="drop")
        for word in [str(tmp_path / name), *words]:
            assert word in str(error.value)

    def test_a_web_page_is_a_text_to_learn(self, tmp_path):
        assert read(tmp_path / "a.txt", b"<html>Hi</html>", "text") == [("<html>Hi</html>",)]


class TestEncodings:
    @pytest.mark.parametrize(
        "encoding", ["utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]
    )
    @pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
    def test_utf_16_and_32_with_and_without_a_mark(self, tmp_path, encoding, name):
        text = TEXT if name == "rows.jsonl" else json.dumps(ROWS, ensure_ascii=False)
        assert read(tmp_path / name, text.encode(encoding)) == PAIRS

    def test_what_excel_calls_unicode_text(self, tmp_path):
        text = "question\tanswer\r\nGrün?\tJa.\r\n"
        assert read(tmp_path / "rows.csv", text.encode("utf-16")) == [("Grün?", "Ja.")]
        packed = gzip.compress(text.encode("utf-16"))
        assert read(tmp_path / "rows.tsv.gz", packed) == [("Grün?", "Ja.")]

    def test_the_advice_for_windows_1252_keeps_every_letter(self, tmp_path):
        path = tmp_path / "rows.jsonl"
        text = '{"question": "“Größe” – ok?", "answer": "5 €"}\n'
        with pytest.raises(DataError) as error:
            read(path, text.encode("cp1252"))
        assert error.value.hint is not None
        command = error.value.hint.rpartition(": ")[2]
        copy = tmp_path / "copy.jsonl"
        subprocess.run(command.replace("COPY", shlex.quote(str(copy))), shell=True, check=True)
        assert read(copy, copy.read_bytes()) == [("“Größe” – ok?", "5 €")]

    @pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
    def test_a_damaged_line_of_a_file_in_utf_8_is_not_to_be_converted(self, tmp_path, name):
        content = TEXT.encode()
        if name == "rows.csv":
            content = b"question,answer\n" + "ä,ö\n".encode() * 3
        elif name == "rows.json":
            content = json.dumps(ROWS, ensure_ascii=False, indent=0).encode()
        with pytest.raises(DataError) as error:
            read(tmp_path / name, content + b"\xe4,x\n")
        assert "iconv" not in str(error.value)
        assert "would bend them: mend this line" in str(error.value)

    def test_a_file_that_ends_inside_a_letter(self, tmp_path):
        with pytest.raises(DataError) as error:
            read(tmp_path / "rows.txt", "Wörter ä".encode()[:-1], "text")
        assert "ends inside a letter: copy or download it again" in str(error.value)
