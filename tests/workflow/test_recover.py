"""A Snakemake that is killed while its job runs, and what puts things right."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.projects import Project

from rlhf.runtime.fence import owner_of

pytestmark = pytest.mark.slow

MANIFEST = "results/sft/chat/manifest.json"  # all that is lost, and comes out the same


def train_again(project: Project) -> tuple[subprocess.Popen[bytes], int]:
    """A Snakemake that trains the model anew, and the process id of the launcher that does it."""
    state = project.folder / "state/train_sft/chat"
    last = owner_of(state).attempt.id
    head = subprocess.Popen(
        ["snakemake", "--profile", "local", "--configfile", project.config,
         "--forcerun", "train_sft", "--until", "train_sft"],
        cwd=project.folder, env=project.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 600
    while (owner := owner_of(state)).attempt.id == last:
        assert head.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    return head, owner.attempt.pid


def test_a_killed_snakemake_is_recovered_from(project: Project) -> None:
    expected = project.results("sft/")
    head, launcher = train_again(project)

    alive = project.rlhf("recover", "--cancel")
    assert alive.returncode == 2
    assert "A Snakemake is running here" in alive.stderr
    assert f"process {head.pid} on " in alive.stderr
    os.kill(launcher, 0)  # it was left alone

    head.kill()
    head.wait()
    assert "cannot be locked" in project.snakemake(check=False).stderr
    listed = project.rlhf("recover")
    assert listed.returncode == 1
    assert f"process {launcher} on " in listed.stdout
    assert listed.stdout.startswith("train_sft chat ")

    cancelled = project.rlhf("recover", "--cancel")
    assert cancelled.returncode == 0, cancelled.stderr
    assert not Path(f"/proc/{launcher}").exists()
    project.snakemake(MANIFEST)
    assert project.results("sft/") == expected
    assert project.would_run() == set()


def test_what_a_killed_snakemake_left_running_is_safe_from_the_next(project: Project) -> None:
    """Even from one that was told to ignore the lock: it is refused before it deletes anything."""
    expected = project.results()
    head, launcher = train_again(project)
    head.kill()
    head.wait()
    os.kill(launcher, signal.SIGSTOP)  # it still lives when the next one comes
    (project.folder / "results/sft/chat/model").mkdir(parents=True, exist_ok=True)
    published = project.folder / "results/sft/chat/model/model.safetensors"
    published.write_bytes(expected["sft/chat/model/model.safetensors"])  # as if just published

    project.snakemake("--unlock")
    refused = project.snakemake(check=False)
    assert refused.returncode == 1
    said = refused.stdout + refused.stderr
    assert "What is to run is at work already" in said
    assert f"train_sft chat: process {launcher} on " in said
    assert "rlhf recover --wait" in said
    assert published.read_bytes() == expected["sft/chat/model/model.safetensors"]

    os.kill(launcher, signal.SIGCONT)
    assert project.rlhf("recover", "--wait").returncode == 0
    project.snakemake(MANIFEST)
    assert project.results() == expected
    assert project.would_run() == set()
