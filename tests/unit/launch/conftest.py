from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from rlhf.launch import containers, images
from rlhf.launch.options import Options, parse


@pytest.fixture(autouse=True)
def outside_of_any_job(monkeypatch, tmp_path):
    """No job, GPUs, deadline or certificates of a site, and a working directory of one's own."""
    for name in list(os.environ):
        if name.startswith(("SLURM", "RLHF_", "CUDA_", "HF_", "WANDB_")):
            monkeypatch.delenv(name)
    for name in containers._PASSED_PATHS:  # torch sets one of them in its own process
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def options():
    """Options of the launcher, for a stage that is never run."""

    def read(line: str = "") -> Options:
        return parse([*line.split(), "--", "rlhf.stages.train_ppo", "--name", "final run"])

    return read


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the definitions and locks, and a working directory without images."""
    root = tmp_path / "project"
    for folder in ("containers", "envs"):
        shutil.copytree(images.PROJECT / folder, root / folder)
    monkeypatch.setattr(images, "PROJECT", root)
    monkeypatch.chdir(root)
    return root
