"""PPO whose responses come from vLLM: in one process, by the launcher, by the whole pipeline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from support.programs import python_path
from support.projects import Project
from support.sampled_policies import LONGEST, client_of, make_policy
from support.tiny_online import EOS, config, save_prompts, trainer

from rlhf.errors import EXIT_SAVED, NumericsError
from rlhf.models.roots import TokenScorer
from rlhf.online.served_sampler import ServedSampler

# Mean and largest difference of log probabilities that are both computed in float32.
MEAN, LARGEST = 2e-5, 2e-4


class ForgetsWeights(ServedSampler):
    """Hands over the first weights alone."""

    def refresh(self, weights):
        if self._refreshes == 0:
            super().refresh(weights)


@pytest.mark.parametrize("kind", [ServedSampler, ForgetsWeights])
def test_the_sampler_has_the_trainers_weights_in_every_update(server, policies, tmp_path, kind):
    """Or the run ends. Checklist 31"""
    settings = config(
        updates=3, sampling__sampler="vllm", sampling__max_mismatch=1e-3, sampling__temperature=0.7,
        optimizer__learning_rate=1e-2, value__kind="critic",
    )  # fmt: skip
    model = TokenScorer(policies[0].load())
    client = client_of(server.endpoint, policies[0], server.certificates)
    weights = tmp_path / "weights"
    sampler = kind(client, weights, model, "policy.", EOS, 10, 0.7, torch.float32)
    learner = trainer(
        save_prompts(tmp_path / "prompts"), tmp_path / "state", settings,
        model=model, sampler=sampler,
    )  # fmt: skip
    if kind is ForgetsWeights:
        with pytest.raises(NumericsError, match="does not sample from the policy") as caught:
            learner.train()
        assert "update 2" in str(caught.value)
        return
    for record in learner.train().journals["metrics"].records():
        assert 0 < record["sampler_mismatch"] < MEAN
        assert record["max_sampler_mismatch"] < LARGEST


def launch(folder: Path, model: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable, "-m", "rlhf.launch", "--processes", "2", "--log", "logs/ppo.log",
            "--sampler", str(model), "--sampler-dtype", "float32", "--sampler-length", str(LONGEST),
            "--", "launched_sampler", str(folder), str(model.parent), *arguments,
        ],
        cwd=folder, env=os.environ | {"PYTHONPATH": python_path()}, text=True,
        capture_output=True, timeout=1500,
    )  # fmt: skip


def test_ranks_go_on_after_the_sampler_is_killed_and_after_the_run_is_ended(tmp_path):
    """With the responses that they would have had."""
    policy = make_policy(tmp_path / "policy", 0, tied=True)
    segments = set(Path("/dev/shm").glob("psm_*"))
    shown = []
    for name, parts in (("whole", [[]]), ("broken", [["kill"], []])):
        folder = tmp_path / name
        save_prompts(folder / "prompts")
        for part in parts:
            done = launch(folder, policy.model, *part)
            assert done.returncode == (EXIT_SAVED if part else 0), done.stderr
            assert ("(SIGKILL); restarting it" in done.stderr) == bool(part), done.stderr
        shown.append(json.loads((folder / "shown.json").read_text()))
    whole, broken = shown
    assert len(whole["metrics"]) == 3
    for left, right in zip(whole["metrics"], broken["metrics"], strict=True):
        assert right["sampler_mismatch"] < MEAN
        assert left == pytest.approx(right, rel=1e-2, abs=1e-4)
    for left, right in zip(whole["samples"], broken["samples"], strict=True):
        assert (left["id"], left["response"]) == (right["id"], right["response"])
        assert left["reward"] == pytest.approx(right["reward"], abs=1e-3)
    assert set(Path("/dev/shm").glob("psm_*")) <= segments


def test_the_pipeline(tmp_path):
    """From the configuration to the manifest."""
    project = Project.clone(tmp_path / "project")
    overlay = {
        "models": {"tiny": {"source": {"random": {"heads": 2}}}},
        "ppo": {"final": {"scoring": "local", "updates": 2, "sampling": {
            "sampler": "vllm", "importance_cap": 2.0}}},
    }  # fmt: skip
    (project.folder / "vllm.yaml").write_text(yaml.safe_dump(overlay))
    project.overlays = ["vllm.yaml"]
    project.snakemake("results/ppo/final/manifest.json")
    results = project.folder / "results/ppo/final"
    facts = json.loads((results / "manifest.json").read_text())["facts"]
    assert facts["sampler"] == "vllm 0.32.0"
    records = [json.loads(line) for line in (results / "metrics.jsonl").read_text().splitlines()]
    assert len(records) == 2
    for record in records:
        assert 0 < record["sampler_mismatch"] < MEAN
        assert record["importance_weight"] == pytest.approx(1, abs=1e-3)
    assert (project.folder / "logs/train_ppo/final.sampler-server.log").is_file()
