from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import random
import signal

import pytest


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
