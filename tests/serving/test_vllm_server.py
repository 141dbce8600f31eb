"""How a sampler's process is started, where there is no vLLM; real ones are in tests/rollouts."""

from __future__ import annotations

import os
import secrets
import sys
import time
from pathlib import Path

import pytest
from support.served_models import make_artifact

from rlhf.errors import ServingError
from rlhf.pipeline.preflight import sampler_problems
from rlhf.runtime.tls import LOOPBACK
from rlhf.serving.vllm_server import VllmServer
from rlhf.serving.vllm_wire import policy_identity
from rlhf.serving.vllmserver import PYTHON


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_artifact(tmp_path_factory.mktemp("policy"), "reference", seed=1) / "model"


def server_of(model, log, certificates, **options):
    common = {"dtype": "bfloat16", "longest": 96, "certificates": certificates}
    return VllmServer(model, log, **common | options)


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        ({}, {"--enforce-eager": None}),
        (
            {"gpus": 2},
            {"--tensor-parallel-size": "2", "--gpu-memory-utilization": "0.9"},
        ),
        (
            {"gpus": 1, "shared": True},
            {"--tensor-parallel-size": "1", "--gpu-memory-utilization": "0.3"},
        ),
    ],
)
def test_runs_behind_a_prefix(model, certificates, tmp_path, gpus, expected):
    """Such as a container's: it is closed to all but the job, and knows what it serves."""
    server = server_of(
        model, tmp_path / "log", certificates, threads=3, python="python-inside",
        command_prefix=["sh", "-c", 'echo "$CUDA_VISIBLE_DEVICES" "$@"', "prefix"],
        env={"CUDA_VISIBLE_DEVICES": "6", "PATH": os.environ["PATH"]}, scratch=tmp_path, **gpus,
    )  # fmt: skip
    try:
        server.start()
        with pytest.raises(ServingError, match="ended with exit code 0 before it was ready"):
            server.wait_ready(60)
        gpu, python, dash, module, private, threads, count, *words = server.log_tail().split()
    finally:
        server.stop()
    assert (gpu, python, dash, module) == ("6", "python-inside", "-m", "rlhf.serving.vllmserver")
    assert (threads, count) == ("3", str(gpus.get("gpus", 0)))
    assert private.startswith(f"{tmp_path}/")
    options = {name: value or None for name, _, value in (word.partition("=") for word in words)}
    assert policy_identity(model) in words
    assert options["--model"] == str(model)
    assert (options["--host"], options["--ssl-cert-reqs"]) == (LOOPBACK, "2")
    assert options["--ssl-ca-certs"] == str(certificates.ca)
    assert (options["--dtype"], options["--max-model-len"]) == ("bfloat16", "96")
    assert expected.items() <= options.items()


@pytest.mark.parametrize(
    ("python", "gpus", "said"),
    [
        ("/nowhere/python", 0, f"{PYTHON} does not name a program"),
        ("", 0, "There is no vLLM here"),
        (sys.executable, 1, "vLLM can't use the GPU that this server was given"),
    ],
)
def test_what_has_no_vllm_ends_at_once_and_says_what_to_do(
    model, certificates, tmp_path, python, gpus, said
):
    env = {**os.environ, PYTHON: python}
    server = server_of(model, tmp_path / "log", certificates, env=env, gpus=gpus)
    with pytest.raises(ServingError, match=said) as caught, server:
        pass
    assert "make vllm" in str(caught.value)


HOLDS = """
import mmap, os, pathlib, subprocess, sys, time
segment, marker, *child = sys.argv[1:4]
if child != ["child"]:
    subprocess.Popen([sys.executable, "-c", os.environ["HOLDS"], segment, marker, "child"])
    time.sleep(600)
file = os.open(segment, os.O_CREAT | os.O_RDWR, 0o600)
os.ftruncate(file, 4096)
held = mmap.mmap(file, 4096)
pathlib.Path(marker).touch()
time.sleep(600)
"""


def test_shared_memory_of_processes_that_outlive_the_first_is_freed(model, certificates, tmp_path):
    """Even of a server that was never ready."""
    segment, marker = Path(f"/dev/shm/psm_{secrets.token_hex(8)}"), tmp_path / "held"
    server = server_of(
        model, tmp_path / "log", certificates, env={**os.environ, "HOLDS": HOLDS},
        command_prefix=[sys.executable, "-c", HOLDS, str(segment), str(marker)],
    )  # fmt: skip
    server.start()
    while not marker.exists():
        assert server.poll() is None, server.log_tail()
        time.sleep(0.05)
    assert segment.exists()
    server.stop()
    assert not segment.exists()


def test_it_is_looked_for_before_anything_runs(monkeypatch):
    monkeypatch.delenv(PYTHON, raising=False)
    (problem,) = sampler_problems()
    assert "There is no vLLM here" in str(problem)
    monkeypatch.setenv(PYTHON, sys.executable)
    assert sampler_problems() == []
