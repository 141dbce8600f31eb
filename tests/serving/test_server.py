"""How a server's process is started."""

from __future__ import annotations

import os

import pytest
import torch

from rlhf.errors import ServingError
from rlhf.serving.server import TritonServer


def test_runs_behind_a_prefix(reward, certificates, tmp_path):
    """Such as a container's: all that it needs is in its arguments and in what it was given."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    server = TritonServer(
        reward.store,
        tmp_path / "log",
        certificates=certificates,
        threads=3,
        command_prefix=["sh", "-c", 'echo "$CUDA_VISIBLE_DEVICES" "$HOME" "$@"', "prefix"],
        python="python-inside",
        env={"CUDA_VISIBLE_DEVICES": "6", "PATH": os.environ["PATH"]},
        scratch=scratch,
    )
    try:
        server.start()
        with pytest.raises(ServingError, match="ended with exit code 0 before it was ready"):
            server.wait_ready(60)
        gpu, python, dash, module, store, kind, private, threads, *_ = server.log_tail().split()
    finally:
        server.stop()
    assert (gpu, python, dash) == ("6", "python-inside", "-m")  # nothing in between: no HOME
    assert (module, kind, threads) == ("rlhf.serving.tritonserver", "reward", "3")
    assert store == str(reward.store)
    assert private.startswith(f"{scratch}/")
    assert not list(scratch.iterdir())


def test_no_such_binary(reward, certificates, tmp_path):
    env = {**os.environ, "RLHF_TRITONSERVER": "/nowhere/tritonserver"}
    server = TritonServer(reward.store, tmp_path / "log", certificates=certificates, env=env)
    with pytest.raises(ServingError, match="RLHF_TRITONSERVER does not name a program"), server:
        pass


def test_a_server_that_was_given_a_gpu_does_not_compute_on_the_cpu(reward, certificates, tmp_path):
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "99"}  # no machine has so many
    server = TritonServer(reward.store, tmp_path / "log", certificates=certificates, env=env)
    with pytest.raises(ServingError, match="the GPU that this server was given") as caught, server:
        pass
    assert torch.__version__ in str(caught.value)


def test_a_folder_that_triton_could_not_start_from(reward, certificates, tmp_path):
    """Its Python backend is started through a shell that takes a space for the path's end."""
    scratch = tmp_path / "my scratch"
    scratch.mkdir()
    server = TritonServer(
        reward.store, tmp_path / "log", certificates=certificates, scratch=scratch
    )
    with pytest.raises(ServingError, match="TMPDIR=/tmp") as caught, server:
        pass
    assert str(scratch) in str(caught.value)
