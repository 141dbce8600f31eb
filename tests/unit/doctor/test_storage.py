from __future__ import annotations

import os

import pytest

from rlhf.doctor import storage


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(storage, "_MEGABYTES", 1)


def look(folder):
    (check,) = storage.check_storage(folder)
    return check


def test_one_file_system_is_measured_once(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "LITTLE_GB", 0.0)
    monkeypatch.setattr(storage, "TOO_LITTLE_GB", 0.0)
    monkeypatch.setattr(storage, "SLOW_MS", 1e9)
    monkeypatch.setattr(storage, "SLOW_MB_PER_SECOND", 0.0)
    for name in ("results", "state"):
        (tmp_path / name).mkdir()
    check = look(tmp_path)
    assert (check.verdict, check.name) == ("ok", "files: the project, results, state")
    assert "ms for a safe small write" in check.found
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results", "state"]


def test_a_link_leads_to_another_file_system(tmp_path, small_disk):
    (tmp_path / "state").symlink_to(small_disk)
    _here, there = storage.check_storage(tmp_path)
    assert there.name == "files: state"
    assert there.found.startswith("tmpfs, 0 GB free")
    assert (there.verdict, there.to_do) == ("failed", "make room")


def test_a_full_disk(small_disk, monkeypatch):
    monkeypatch.setattr(storage, "_MEGABYTES", 3)
    check = look(small_disk)
    assert check.verdict == "failed"
    assert "No space left" in check.found
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "value", "verdict", "words"),
    [
        ("SLOW_MS", -1.0, "warning", "faster file system"),
        ("SLOW_MB_PER_SECOND", 1e9, "warning", "save_seconds"),
        ("LITTLE_GB", 1e9, "warning", "make room"),
        ("TOO_LITTLE_GB", 1e9, "failed", "make room"),
        ("CLOCK_SECONDS", -1.0, "warning", "clocks"),
    ],
)
def test_bounds(tmp_path, monkeypatch, setting, value, verdict, words):
    for name, harmless in (("LITTLE_GB", 0.0), ("TOO_LITTLE_GB", 0.0), ("SLOW_MS", 1e9),
                           ("SLOW_MB_PER_SECOND", 0.0)):  # fmt: skip
        monkeypatch.setattr(storage, name, harmless)
    monkeypatch.setattr(storage, setting, value)
    check = look(tmp_path)
    assert check.verdict == verdict
    assert words in check.to_do


def test_no_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    check = look(tmp_path)
    assert check.verdict == "failed"
    assert "no hard links" in check.found
