from __future__ import annotations

import os
import subprocess

import pytest


@pytest.fixture(autouse=True)
def always_leave_no_trace(leave_no_trace: None) -> None:
    """Every test here may start a run."""


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:  # as root, where CI runs, a mount that fails is a failure
        pytest.skip("a disk can be filled only where a small one may be mounted: as root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
