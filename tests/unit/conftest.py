from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import random
import signal

import pytest
from support import fakes


@pytest.fixture
def leave_no_trace() -> Iterator[None]:
    """What a run changes in its process: threads, seeds, deterministic mode, signal handlers."""
    import numpy as np
    import torch  # here: most unit tests do without it

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    handlers = {
        one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
    }
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


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
    monkeypatch.setenv("PATH", os.pathsep.join([str(fakes.SLURM), os.environ["PATH"]]))

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
