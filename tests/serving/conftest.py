"""Tiny stores, and one running server of each kind."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from served_models import VOCABULARY, Exported, make_store

from rlhf.serving.client import TritonScorer
from rlhf.serving.server import TritonServer


@pytest.fixture(scope="session")
def reward(tmp_path_factory) -> Exported:
    return make_store(tmp_path_factory.mktemp("reward"), "reward", seed=1)


@pytest.fixture(scope="session")
def reference(tmp_path_factory) -> Exported:
    return make_store(tmp_path_factory.mktemp("reference"), "reference", seed=2)


@pytest.fixture(scope="session")
def nan_reward(tmp_path_factory) -> Exported:
    return make_store(tmp_path_factory.mktemp("nan"), "reward", seed=4, nan=True)


@pytest.fixture(scope="session")
def servers(reward, reference, nan_reward, tmp_path_factory):
    """All servers, started together."""
    logs = tmp_path_factory.mktemp("logs")
    stores = {"reward": reward, "reference": reference, "nan": nan_reward}
    running = {name: TritonServer(one.store, logs / name) for name, one in stores.items()}
    try:
        for server in running.values():
            server.start()
        for server in running.values():
            server.wait_ready(120)
        yield running
    finally:
        for server in running.values():
            server.terminate()
        for server in running.values():
            server.stop()


@pytest.fixture
def reward_scorer(servers, reward):
    with TritonScorer(servers["reward"].endpoint, "reward", reward.identity, backoff=0.5) as scorer:
        yield scorer


@pytest.fixture
def reference_scorer(servers, reference):
    with TritonScorer(
        servers["reference"].endpoint, "reference", reference.identity, backoff=0.5
    ) as scorer:
        yield scorer


@pytest.fixture(scope="session")
def sequences() -> list[np.ndarray]:
    """40 sequences of 2 to 120 tokens; many hold the pad id, some end with it."""
    random = np.random.default_rng(3)
    rows = [random.integers(0, VOCABULARY, length) for length in random.integers(2, 120, 40)]
    for row in rows[::3]:
        row[-1] = 2
    return rows
