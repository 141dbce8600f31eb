"""A process that was given a GPU uses it or ends; the torch of these tests can use none."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import pytest
import torch
from support import fakes

from rlhf.catalog import RULES
from rlhf.errors import ClusterError
from rlhf.models import devices
from rlhf.runtime import gpus
from rlhf.training import distributed


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine with a driver and two GPUs, none of which torch can use."""
    monkeypatch.setenv("PATH", os.pathsep.join([str(fakes.GPU), os.environ["PATH"]]))
    monkeypatch.delenv(gpus.VISIBLE, raising=False)
    monkeypatch.delenv(gpus.USED, raising=False)


@pytest.mark.parametrize(
    ("named", "seen"),
    [
        ("0,1", ("0", "1")),
        ("GPU-1a, MIG-2b", ("GPU-1a", "MIG-2b")),
        ("1,-1,0", ("1",)),  # CUDA stops at the first that it can't see
        ("-1", ()),
        ("NoDevFiles", ()),
        ("", ()),
    ],
)
def test_the_environment_names_them_as_cuda_reads_it(named, seen):
    assert gpus.visible({gpus.VISIBLE: named}) == seen
    assert gpus.visible({}) is None


@pytest.mark.parametrize("look", [devices.own_device, devices.check_device, distributed.start])
def test_a_gpu_that_was_given_and_can_not_be_used_is_an_error(look, two_gpus, monkeypatch):
    monkeypatch.setenv(gpus.VISIBLE, "0,1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ClusterError) as caught:
        look()
    said = str(caught.value)
    assert "CUDA_VISIBLE_DEVICES=0,1" in said
    assert torch.__version__ in said
    assert "NVIDIA driver 550.54.15" in said


@pytest.mark.parametrize("named", ["", "-1", "NoDevFiles"])
def test_without_a_gpu_the_cpu_it_is(named, two_gpus, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv(gpus.VISIBLE, named)
    devices.check_device()
    assert devices.own_device() == torch.device("cpu")
    assert "computing on the CPU, beside 2 GPUs: cluster.gpus_per_node" in caplog.text


def test_gpus_that_a_launch_leaves_alone_are_named(two_gpus, monkeypatch):
    monkeypatch.setenv(gpus.USED, "1")
    assert "on 1 of this machine's 2 GPUs" in gpus.unused(own=1)
    monkeypatch.setenv(gpus.USED, "2")
    assert gpus.unused(own=1) is None


def test_nothing_is_said_where_there_are_none(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert gpus.count() == 0
    assert gpus.unused(own=0) is None
    assert gpus.driver() == "no NVIDIA driver answers here"


@pytest.fixture
def one_failing_gpu(two_gpus, monkeypatch):
    """A torch that finds one GPU, on which the first tensor fails."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv(gpus.VISIBLE, "0")


def test_a_gpu_that_fails_is_an_error(one_failing_gpu):
    with pytest.raises(ClusterError, match="can't be used: Torch not compiled with CUDA"):
        devices.check_device()


def test_more_ranks_than_gpus_is_an_error(one_failing_gpu, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ClusterError, match=r"process 1 of this node.* torch finds 1 GPUs"):
        devices.check_device()


@pytest.mark.parametrize("stage", [rule for rule, row in RULES.items() if row.gpu])
def test_every_stage_that_computes_ends_at_once(stage, two_gpus, tmp_path):
    inputs = ("start", "sft", "reward", "model", "data")
    online = {"sft": "a", "reward": "b", "data": {"c": {}}}
    config = json.dumps(online if RULES[stage].online else {})
    command = [sys.executable, "-m", f"rlhf.stages.{stage}", "--name=x", f"--config={config}"]
    for role in inputs:
        command += ["--input", role, f"{tmp_path}/{role}/manifest.json"]
    for role in ("repository", "parity", "manifest.json"):
        command += ["--output", role.partition(".")[0], f"{tmp_path}/out/{role}"]
    done = subprocess.run(
        command, env=os.environ | {gpus.VISIBLE: "0"}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "The GPU that this process was given can't be used" in done.stderr
