"""Real agents, each with a real torchrun: the ranks of one node, and of two that meet."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.programs import python_path

from rlhf.runtime.network import hold_port

LAUNCH = [sys.executable, "-m", "rlhf.launch"]


@pytest.fixture
def start(tmp_path):
    """Starts a launcher as on the given node; all of them end with the test."""
    environment = os.environ | {"PYTHONPATH": python_path()}
    environment |= {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    with contextlib.ExitStack() as running:

        def one(*arguments: str, node: int = 0) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [*LAUNCH, *arguments], env=environment | {"SLURM_NODEID": str(node)}, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path,
            )  # fmt: skip
            running.enter_context(process)
            running.callback(process.kill)
            return process

        yield one
    assert not list((tmp_path / "tmp").iterdir())


@pytest.fixture
def start_two_nodes(start, tmp_path):
    """Starts the agents of two nodes, as srun does; they share one machine here."""
    (tmp_path / "exit_codes").mkdir()
    with hold_port() as held:
        port = held.getsockname()[1]
        shared = ["--nodes=2", "--agent", f"--rendezvous=127.0.0.1:{port}"]
        shared += [f"--exit-codes={tmp_path / 'exit_codes'}"]
        yield lambda *stage: [start(*shared, "--", *stage, node=node) for node in (0, 1)]


def wait(*processes: subprocess.Popen[str]) -> list[int]:
    said = [process.communicate(timeout=600)[0] for process in processes]
    codes = [process.returncode for process in processes]
    if any(codes):
        print(*said)
    return codes


def exit_codes(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (folder / "exit_codes").iterdir()}


@pytest.mark.slow
def test_training_is_the_same_wherever_its_ranks_are(start, start_two_nodes, tmp_path):
    """Checklist 32, 36"""
    prepare = f"from supervised_ranks import *; save_set(Path({str(tmp_path / 'alone')!r}))"
    environment = os.environ | {"PYTHONPATH": python_path()}
    subprocess.run([sys.executable, "-c", prepare], env=environment, check=True)
    folders = {name: tmp_path / name for name in ("alone", "processes", "nodes")}
    for name in ("processes", "nodes"):
        shutil.copytree(folders["alone"], folders[name])
    alone = start("--", "supervised_ranks", str(folders["alone"]))
    processes = start("--processes=2", "--", "supervised_ranks", str(folders["processes"]))
    nodes = start_two_nodes("supervised_ranks", str(folders["nodes"]))
    assert wait(alone, processes, *nodes) == [0, 0, 0, 0]
    assert exit_codes(tmp_path) == {"0": "0", "1": "0"}
    found = {
        (name, rank): torch.load(folders[name] / f"rank-{rank}.pt")["model"]
        for name, rank in (("alone", 0), *((n, r) for n in ("processes", "nodes") for r in (0, 1)))
    }
    reference = found["processes", 0]
    for place, model in found.items():
        for name, parameter in model.items():
            if place == ("alone", 0):
                torch.testing.assert_close(parameter, reference[name], atol=2e-4, rtol=1e-4)
            else:
                assert torch.equal(parameter, reference[name]), (place, name)


def test_ranks_that_saved_on_both_nodes_are_no_failure_to_srun(start_two_nodes, tmp_path):
    agents = start_two_nodes("launched_stage", "wait_for_signal", str(tmp_path))
    ranks = [tmp_path / "0", tmp_path / "1"]
    until = time.monotonic() + 300
    while not all(rank.exists() and rank.read_text() == "waiting" for rank in ranks):
        assert time.monotonic() < until
        time.sleep(0.05)
    for agent in agents:
        agent.send_signal(signal.SIGUSR2)
    assert wait(*agents) == [0, 0]
    assert exit_codes(tmp_path) == {"0": "75", "1": "75"}
    assert [rank.read_text() for rank in ranks] == ["SIGUSR2", "SIGUSR2"]


def test_a_failure_is_one_to_srun_and_to_the_head(start, tmp_path):
    (tmp_path / "exit_codes").mkdir()
    agent = start(
        "--agent", f"--exit-codes={tmp_path / 'exit_codes'}", "--", "launched_stage", "exit", "3"
    )
    assert wait(agent) == [3]
    assert exit_codes(tmp_path) == {"0": "3"}
