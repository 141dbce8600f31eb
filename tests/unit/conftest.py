from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

FAKE_SLURM = Path(__file__).resolve().parents[1] / "fake_slurm"


@pytest.fixture
def no_launcher(monkeypatch):
    """The environment of a process that neither SLURM nor a launcher started."""
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "RLHF_ATTEMPT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fake_slurm(tmp_path_factory, monkeypatch):
    """Fakes of SLURM's commands, and a function that sets what they know: jobs, and faults."""
    path = tmp_path_factory.mktemp("fake_slurm") / "cluster.json"
    monkeypatch.setenv("FAKE_SLURM", str(path))
    monkeypatch.setenv("PATH", os.pathsep.join([str(FAKE_SLURM), os.environ["PATH"]]))

    def put(*jobs: dict, **cluster) -> None:
        path.write_text(json.dumps({"jobs": jobs} | cluster))

    put()
    return put


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
