"""Equal runs give equal bytes: twice over, and when a run is killed and goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.projects import TINY, Project

STAGES = {
    "train_sft": ("sft", "chat"),
    "train_reward": ("reward", "helpful"),
    "train_ppo": ("ppo", "final"),
}


@pytest.mark.slow
def test_two_runs_give_the_same_bytes(finished: Project, tmp_path: Path) -> None:
    second = finished.fresh_clone(tmp_path / "in another place")
    shutil.rmtree(second.folder / "results")
    second.snakemake()
    assert second.results() == finished.results()


def save_every_step(project: Project) -> None:
    path = project.folder / TINY
    values = yaml.safe_load(path.read_text())
    values["runtime"]["save_steps"] = 1
    path.write_text(yaml.safe_dump(values))


def kill_after(project: Project, stage: str, steps: int) -> None:
    """Start a stage anew, and kill -9 all of it once ``steps`` steps are saved."""
    kind, name = STAGES[stage]
    shutil.rmtree(project.folder / "results" / kind / name)
    shutil.rmtree(project.folder / "state" / stage / name)
    target = f"results/{kind}/{name}/manifest.json"
    process = subprocess.Popen(
        ["snakemake", "--profile", "local", target, "--configfile", TINY],
        cwd=project.folder,
        env=project.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    state = project.folder / "state" / stage / name
    deadline = time.monotonic() + 600
    while not list(state.glob(f"*/step-{steps:08d}/seal.json")):
        assert process.poll() is None, "the stage ended before it could be killed"
        assert time.monotonic() < deadline, "no state was saved"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)  # the launcher's children die with it
    process.wait()
    project.snakemake("--unlock")
    assert not (project.folder / "results" / kind / name / "manifest.json").exists()


def go_on(project: Project, stage: str) -> str:
    """Run the stage again; what its log says."""
    kind, name = STAGES[stage]
    project.snakemake(f"results/{kind}/{name}/manifest.json")
    return (project.folder / "logs" / stage / f"{name}.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "damage"),
    [("train_sft", "flipped byte"), ("train_reward", "half written"), ("train_ppo", "cut short")],
)
def test_a_killed_stage_goes_on_to_the_same_bytes(
    stage: str, damage: str, finished: Project, project: Project, tmp_path: Path
) -> None:
    """From its newest state, and from the one before where that is damaged."""
    save_every_step(project)
    kill_after(project, stage, 2)
    damaged = project.copy(tmp_path / "damaged")
    assert "goes on after step" in go_on(project, stage)
    assert project.results() == finished.results()

    newest = max((damaged.folder / "state" / stage).glob("*/*/step-*"))
    tensors = newest / "engine-00000-00000.safetensors"
    content = tensors.read_bytes()
    if damage == "flipped byte":
        middle = len(content) // 2
        tensors.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif damage == "cut short":
        tensors.write_bytes(content[: len(content) // 2])
    else:
        (newest / "seal.json").unlink()
    assert "is damaged" in go_on(damaged, stage)
    assert damaged.results() == finished.results()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["fsdp", "zero3"])
def test_a_killed_stage_goes_on_with_other_processes_that_share_the_weights(
    engine: str, finished: Project, project: Project
) -> None:
    save_every_step(project)
    kill_after(project, "train_sft", 2)
    path = project.folder / TINY
    values = yaml.safe_load(path.read_text())
    values["cluster"] = {"processes_per_node": 2, "engine": engine}
    path.write_text(yaml.safe_dump(values))
    assert "goes on after step" in go_on(project, "train_sft")
    weights = [
        load_file(run.folder / "results/sft/chat/model/model.safetensors")
        for run in (finished, project)
    ]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=1e-5, rtol=1e-4, msg=name)
    manifest = json.loads((project.folder / "results/sft/chat/manifest.json").read_text())
    assert manifest["facts"]["processes"] == 2


@pytest.mark.slow
def test_a_forced_stage_is_computed_again(finished: Project, project: Project) -> None:
    """To the same bytes; what only re-runs because a parent did, and came out the same, is not."""
    target = "results/ppo/final/manifest.json"
    project.snakemake(target, "--forcerun", "train_sft", "train_ppo")
    logs = {
        stage: (project.folder / "logs" / stage / f"{name}.log").read_text()
        for stage, (_, name) in STAGES.items()
    }
    for stage in ("train_sft", "train_ppo"):
        assert "is forced: it is computed again, from step 0" in logs[stage]
        assert "only the result is written out" not in logs[stage]
    assert "only the result is written out" in logs["train_reward"]
    assert "forced" not in logs["train_reward"]
    assert project.results() == finished.results()
    assert project.would_run() == set()


@pytest.mark.slow
def test_a_forced_stage_that_is_killed_goes_on(finished: Project, project: Project) -> None:
    save_every_step(project)
    target = "results/sft/chat/manifest.json"
    command = ["snakemake", "--profile", "local", "--configfile", TINY, "--forcerun", target]
    state = project.folder / "state/train_sft/chat"
    head = subprocess.Popen(
        [*command, "--until", "train_sft"],
        cwd=project.folder,
        env=project.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 180
    while not (list(state.glob("*/step-00000002")) and not list(state.glob("*/step-00000004"))):
        assert head.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(head.pid, signal.SIGKILL)
    head.wait()
    project.snakemake("--unlock")
    project.snakemake(target, "--forcerun", target)
    log = (project.folder / "logs/train_sft/chat.log").read_text()
    assert log.count("is forced: it is computed again") == 1
    assert "goes on after step" in log
    assert project.results() == finished.results()
