"""GRPO and REINFORCE++, from a finished project's SFT run and reward model."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from support.page_tables import names, tables
from support.projects import Project

from rlhf.core.digest import digest_file

EXTRA = "config/extra.yaml"
GRPO, REINFORCE = (f"results/{section}/groups/manifest.json" for section in ("grpo", "reinforce"))
REPORT = "results/report/both/manifest.json"


def run(**changes: Any) -> dict[str, Any]:
    return {
        "sft": "chat", "reward": "helpful", "data": {"demo": {}}, "precision": "float32",
        "scoring": "local", "updates": 2, "rollout_batch_size": 8, "minibatch_size": 4,
        "responses_per_prompt": 2, "sampling": {"max_new_tokens": 8}, **changes,
    }  # fmt: skip


def records(project: Project, section: str) -> list[dict[str, Any]]:
    path = project.folder / f"results/{section}/groups/metrics.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_they_are_trained_evaluated_and_reported(project: Project) -> None:
    options = {
        "loss": {"ratio": "sequence", "clip_high": 0.3, "entropy_coefficient": 0.01},
        "dynamic_sampling": {"max_rounds": 2},
        "overlong": {"buffer": 4, "mask": True},
    }
    sections = {
        "grpo": {"groups": run(**options)},
        "reinforce": {"groups": run(baseline="group")},
        "evaluation": {"groups": {"grpo": "groups", "max_prompts": 8, "max_new_tokens": 8}},
        "report": {"both": {"evaluations": ["final", "groups"]}},
    }
    (project.folder / EXTRA).write_text(yaml.safe_dump(sections))
    project.overlays = [EXTRA]
    assert project.would_run(REPORT) == {"check_rows", "train_grpo", "evaluate", "report"}
    assert project.would_run(REINFORCE) == {"check_rows", "train_reinforce"}
    project.snakemake(REPORT, REINFORCE)

    figures = tables("metrics.md", "figure")
    common = set(names(figures["RLOO, GRPO and REINFORCE++"]))
    optional = set(names(figures["Options of on-policy methods"]))
    assert all(record.keys() == common | optional for record in records(project, "grpo"))
    assert all(record.keys() == common for record in records(project, "reinforce"))
    results = project.folder / "results"
    for path in (GRPO, REINFORCE):
        manifest = json.loads((project.folder / path).read_text())
        for parent in ("sft/chat", "reward/helpful"):
            digest = digest_file(results / parent / "manifest.json")
            assert manifest["parents"][parent.partition("/")[0]] == digest
    found = json.loads((results / "evaluation/groups/evaluation.json").read_text())
    assert set(found["models"]) == {"base", "sft", "grpo"}
    page = (results / "report/both/report.html").read_text()
    for text in ("GRPO wins against SFT", "PPO wins against SFT", "KL from the reference"):
        assert text in page
