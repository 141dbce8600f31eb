from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import random
import signal
import subprocess

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def leave_no_trace():
    """What the tests change in their process: seeds, deterministic mode, signal handlers."""
    handlers = {
        one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
    }
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    torch.use_deterministic_algorithms(False)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


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
