from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from rlhf.launch import scratch
from rlhf.launch.scratch import Scratch

HOLD = "from rlhf.launch.scratch import Scratch; s = Scratch(); print(s.path, flush=True); input()"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Where temporary files are, and shared memory."""
    for name in ("tmp", "shm"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(scratch.tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(scratch, "SHARED_MEMORY", tmp_path / "shm")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    return tmp_path


def test_a_scratch_folder_is_private_and_goes_without_a_trace(root):
    one, other = Scratch(), Scratch()
    assert one.path != other.path
    assert one.path.stat().st_mode & 0o777 == 0o700
    one.remove()
    assert list((root / "tmp").iterdir()) == [other.path]
    other.remove()


def test_what_a_killed_launcher_left_goes_when_the_next_one_starts(root):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    left = root / "tmp" / process.stdout.readline().strip()
    (left / "rlhf-reward-0123.abcd").mkdir()
    for name in ("rlhf-reward-0123_region", "rlhf-reward-4567_region", "others"):
        (root / "shm" / name).touch()
    (root / "tmp" / "others").mkdir()
    Scratch().remove()
    assert left.is_dir(), "its launcher lives"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    Scratch().remove()
    assert [path.name for path in (root / "tmp").iterdir()] == ["others"]
    assert sorted(path.name for path in (root / "shm").iterdir()) == [
        "others", "rlhf-reward-4567_region",
    ]  # fmt: skip
