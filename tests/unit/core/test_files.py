from __future__ import annotations

import os
import stat

import pytest

from rlhf.core import files
from rlhf.core.files import atomic_directory, keep_log, read_json, write_atomic, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("before", [None, "old"])
@pytest.mark.parametrize("failing", ["fsync", "replace", "chmod"])
def test_write_atomic_leaves_nothing_behind_when_it_fails(tmp_path, monkeypatch, failing, before):
    path = tmp_path / "file.txt"
    if before:
        path.write_text(before)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, failing, fail)
    with pytest.raises(OSError, match="space"):
        write_atomic(path, "new")
    assert names(tmp_path) == (["file.txt"] if before else [])
    assert not before or path.read_text() == before


def test_write_atomic_replaces_whole_files(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_atomic(path, "ä")
    assert path.read_bytes() == "ä".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    with open(path, "rb") as reader:
        write_atomic(path, b"new", mode=0o600)
        assert reader.read() == "ä".encode(), "a reader keeps the old bytes"
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(path.parent) == ["b.txt"]


def test_json_of_equal_values_has_equal_bytes(tmp_path):
    write_json(tmp_path / "a", {"b": 0.1, "a": ["ä", None]})
    write_json(tmp_path / "b", {"a": ["ä", None], "b": 0.1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_json(tmp_path / "a") == {"a": ["ä", None], "b": 0.1}


def fill(folder, text):
    (folder / "deep").mkdir()
    (folder / "deep" / "file").write_text(text)


def test_a_directory_appears_whole(tmp_path):
    path = tmp_path / "new" / "model"
    with atomic_directory(path) as folder:
        fill(folder, "one")
        assert not path.exists()
        assert folder.parent == path.parent, "a rename across file systems would copy"
    assert (path / "deep" / "file").read_text() == "one"
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    with atomic_directory(path) as folder:
        (folder / "other").write_text("two")
        assert (path / "deep" / "file").read_text() == "one"
    assert names(path) == ["other"]
    assert names(path.parent) == ["model"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [False, True])
def test_a_directory_leaves_nothing_behind_when_it_fails(tmp_path, before, error):
    path = tmp_path / "model"
    if before:
        path.mkdir()
        fill(path, "old")

    def fail():
        with atomic_directory(path) as folder:
            fill(folder, "half")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == (["model"] if before else [])
    assert not before or (path / "deep" / "file").read_text() == "old"


def test_a_directory_that_cannot_be_flushed_does_not_appear(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(28, "No space left on device")

    def write():
        with atomic_directory(tmp_path / "model") as folder:
            fill(folder, "x")
            monkeypatch.setattr(files.os, "fsync", fail)

    with pytest.raises(OSError, match="space"):
        write()
    assert names(tmp_path) == []


def test_every_file_is_flushed_before_the_rename(tmp_path, monkeypatch):
    events = []
    fsync_path, replace = files.fsync_path, os.replace
    monkeypatch.setattr(files, "fsync_path", lambda p: events.append(p.name) or fsync_path(p))
    monkeypatch.setattr(files.os, "replace", lambda *a: events.append("rename") or replace(*a))
    with atomic_directory(tmp_path / "model") as folder:
        fill(folder, "x")
    rename = events.index("rename")
    assert {"file", "deep"} <= set(events[:rename])
    assert events[rename + 1 :] == [tmp_path.name]


def test_a_log_that_snakemake_removes_is_kept(tmp_path):
    log = tmp_path / "train_sft" / "chat.log"
    keep_log(log)
    with log.open("a") as left_behind:
        left_behind.write("first\n")
        left_behind.flush()
        log.unlink()
        keep_log(log)
        keep_log(log)  # the next rank
        with log.open("a") as stream:
            stream.write("second\n")
        left_behind.write("replaced\n")
    assert log.read_text() == "first\nsecond\nreplaced\n"


def test_a_log_survives_the_empty_one_that_snakemake_makes(tmp_path):
    log = tmp_path / "long.log"
    keep_log(log)
    with log.open("a") as attempt_left_behind:
        log.unlink()
        log.touch()
        keep_log(log)
        log.open("a").write("the next attempt\n")
        attempt_left_behind.write("has been replaced\n")
    assert log.read_text() == "the next attempt\nhas been replaced\n"
    assert {path.name for path in tmp_path.iterdir()} == {"long.log", ".long.log"}
