from __future__ import annotations

import json
import os
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
