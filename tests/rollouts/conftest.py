"""vLLM for CPUs in an environment of its own, policies that it serves, and one running server."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from support.container.containers import CACHE
from support.projects import REPOSITORY
from support.sampled_policies import Policy, make_policy, serve

from rlhf.core.digest import digest_file
from rlhf.runtime.tls import Certificates, make_certificates
from rlhf.serving import vllm_client, vllm_server
from rlhf.serving.vllm_server import VllmServer
from rlhf.serving.vllmserver import PYTHON

# A lost server is to be found within a few seconds here, and so is one that is back.
vllm_client.MAX_PAUSE = 2.0
vllm_server.PAUSE_SECONDS = 1.0


@pytest.fixture(scope="session", autouse=True)
def environment() -> Path:
    """Made as a user makes it, and kept for as long as what it is made from stays the same."""
    lock = digest_file(REPOSITORY / "envs/locks/sample.txt")[:12]
    folder = CACHE / f"vllm-{lock}-{sys.version_info.major}.{sys.version_info.minor}"
    if not (folder / ".ready").exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        command = ["make", "vllm", f"VLLM={folder}", f"PYTHON={sys.executable}"]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=3000)
        if done.returncode:
            said = f"{done.stdout}{done.stderr}"
            raise RuntimeError(f"no environment with vLLM can be made:\n{said}")
    os.environ[PYTHON] = str(folder / "bin/python")
    return folder


@pytest.fixture(scope="session", params=[True, False], ids=["tied", "untied"])
def policies(request, tmp_path_factory) -> tuple[Policy, Policy]:
    """What a server starts from, and other weights of the same model."""
    folder = tmp_path_factory.mktemp("policies")
    return (
        make_policy(folder / "first", 0, request.param),
        make_policy(folder / "other", 1, request.param),
    )


@pytest.fixture(scope="session")
def certificates() -> Iterator[Certificates]:
    with tempfile.TemporaryDirectory() as folder:
        yield make_certificates(Path(folder, "tls"))


@pytest.fixture(scope="session")
def server(policies, certificates, tmp_path_factory) -> Iterator[VllmServer]:
    running = serve(policies[0], tmp_path_factory.mktemp("logs") / "log", certificates)
    try:
        running.start()
        running.wait_ready(1800)  # three processes import vLLM: minutes on a busy machine
        yield running
    finally:
        running.stop()
