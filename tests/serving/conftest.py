"""Tiny stores, and one running server of each kind."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from support.served_models import SLOWLY, VOCABULARY, Exported, make_store

from rlhf.runtime.tls import Certificates, make_certificates
from rlhf.serving import client, health
from rlhf.serving.client import TritonScorer
from rlhf.serving.server import TritonServer

# A lost server is to be found within a few seconds here, and so is one that is back.
client.MAX_PAUSE = 1.0
health.PAUSE_SECONDS, health.ANSWER_SECONDS, health.BUSY_SECONDS = 0.2, 1.0, 8.0


@pytest.fixture(scope="session")
def reward(tmp_path_factory) -> Exported:
    return make_store(tmp_path_factory.mktemp("reward"), "reward", seed=1)


@pytest.fixture(scope="session")
def reference(tmp_path_factory) -> Exported:
    return make_store(tmp_path_factory.mktemp("reference"), "reference", seed=2)


@pytest.fixture(scope="session")
def odd_reward(tmp_path_factory) -> Exported:
    """Answers with NaN, and takes as many seconds as a request has rows that start with SLOW."""
    odd = make_store(tmp_path_factory.mktemp("odd"), "reward", seed=4, nan=True)
    with open(odd.store / "reward" / "1" / "model.py", "a") as model:
        model.write(SLOWLY)
    return odd


@pytest.fixture(scope="session")
def certificates():
    """The job's, in a folder that others may enter up to the last part, as in /tmp."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield make_certificates(Path(folder, "tls"))


@pytest.fixture(scope="session")
def other_certificates(tmp_path_factory) -> Certificates:
    """Those of another job."""
    return make_certificates(tmp_path_factory.mktemp("other") / "tls")


@pytest.fixture(scope="session")
def servers(reward, reference, odd_reward, certificates, tmp_path_factory):
    """All servers, started together."""
    logs = tmp_path_factory.mktemp("logs")
    stores = {"reward": reward, "reference": reference, "odd": odd_reward}
    running = {
        name: TritonServer(
            one.store, logs / name, certificates=certificates, spread=name == "reference"
        )
        for name, one in stores.items()
    }
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
def connect(certificates):
    """Opens a scorer of a server."""

    def scorer(server: TritonServer, exported: Exported, **options) -> TritonScorer:
        options = {"backoff": 0.5, "certificates": certificates, **options}
        return TritonScorer(server.endpoint, exported.kind, exported.identity, **options)

    return scorer


@pytest.fixture
def reward_scorer(connect, servers, reward):
    with connect(servers["reward"], reward) as scorer:
        yield scorer


@pytest.fixture
def reference_scorer(connect, servers, reference):
    with connect(servers["reference"], reference) as scorer:
        yield scorer


@pytest.fixture(scope="session")
def sequences() -> list[np.ndarray]:
    """40 sequences of 2 to 120 tokens; many hold the pad id, some end with it."""
    random = np.random.default_rng(3)
    rows = [random.integers(0, VOCABULARY, length) for length in random.integers(2, 120, 40)]
    for row in rows[::3]:
        row[-1] = 2
    return rows
