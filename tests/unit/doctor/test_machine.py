from __future__ import annotations

import importlib.metadata
import os
import socket

import pytest
from support import fakes

from rlhf.doctor import machine


def test_every_machine_is_looked_at():
    names = [check.name for check in machine.check_machine()]
    assert names == ["software", "shared memory", "own name", "ports"]


def test_packages_are_compared_with_the_lock(tmp_path):
    lock = tmp_path / "lock.txt"
    installed = importlib.metadata.version("PyYAML")
    lock.write_text(f"# a comment\nPyYAML=={installed}  # why\nnot-installed-here==1.0\n")
    assert machine.check_software(lock).verdict == "ok"
    lock.write_text("PyYAML==0.1\n")
    check = machine.check_software(lock)
    assert check.verdict == "warning"
    assert f"PyYAML {installed} (lock: 0.1)" in check.found
    assert "make setup" in check.to_do
    assert machine.check_software(tmp_path / "none").verdict == "warning"


def test_little_shared_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "LEAST_SHARED_GB", 1e9)
    check = machine.check_shared_memory()
    assert check.verdict == "warning"
    assert "--shm-size" in check.to_do
    assert machine.check_shared_memory(tmp_path / "none").verdict == "failed"


def test_a_name_that_does_not_resolve(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "no-such-machine.invalid")
    check = machine.check_name()
    assert check.verdict == "warning"
    assert "no-such-machine.invalid" in check.found


def test_ports_that_can_not_be_had(monkeypatch):
    assert machine.check_ports().verdict == "ok"

    def refuse(*_args, **_keys):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket, "create_server", refuse)
    check = machine.check_ports()
    assert (check.verdict, "not permitted" in check.found) == ("failed", True)


@pytest.fixture
def fake_gpus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", os.pathsep.join([str(fakes.GPU), os.environ["PATH"]]))


def test_gpus_are_those_that_this_process_may_use(fake_gpus, monkeypatch):
    assert machine.gpu_names() == ["Fake H200", "Fake H200"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert machine.gpu_names() == ["Fake H200"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.gpu_names() == []


def test_gpus_that_torch_does_not_see(fake_gpus, monkeypatch):
    monkeypatch.setattr(machine.sys, "executable", "/bin/false")  # no torch, and none is loaded
    check = machine.check_gpus(machine.gpu_names(), expected=True, with_torch=True)
    assert check.verdict == "failed"
    assert check.found.startswith("2 × Fake H200; torch sees none")
    assert "CUDA" in check.to_do
    check = machine.check_gpus(machine.gpu_names(), expected=True, with_torch=False)
    assert (check.verdict, check.found) == ("ok", "2 × Fake H200")


def test_no_gpus_are_a_fault_only_where_a_job_asked_for_them():
    assert machine.check_gpus([], expected=False, with_torch=True).verdict == "ok"
    check = machine.check_gpus([], expected=True, with_torch=True)
    assert (check.verdict, "--gres" in check.to_do) == ("failed", True)


@pytest.fixture
def hub_environment(monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")


@pytest.mark.usefixtures("hub_environment")
def test_the_hub(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.getsockname()[1]}")
        check = machine.check_hub(needed=True)
        assert (check.verdict, check.found) == ("ok", "127.0.0.1 answers; HF_TOKEN is set")
    check = machine.check_hub(needed=True)
    assert check.verdict == "warning"
    assert "no way to 127.0.0.1: " in check.found
    assert "HF_ENDPOINT" in check.to_do
    assert machine.check_hub(needed=False).verdict == "ok"  # jobs need no network
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    check = machine.check_hub(needed=True)
    assert (check.verdict, "cache only" in check.found) == ("ok", True)
    assert "hf_secret" not in check.found


@pytest.mark.usefixtures("hub_environment")
def test_a_proxy_with_a_password(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        port = proxy.getsockname()[1]
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@127.0.0.1:{port}")
        check = machine.check_hub(needed=True)
    assert check.found == "huggingface.co answers through a proxy; HF_TOKEN is set"
