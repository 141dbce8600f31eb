"""DPO, from a finished project's SFT run."""

from __future__ import annotations

import json
from typing import Any

import yaml
from support.page_tables import names, tables
from support.projects import Project

from rlhf.core.digest import digest_file

EXTRA = "config/extra.yaml"
RUN, BOTH = "results/dpo/final/manifest.json", "results/report/both/manifest.json"


def write(project: Project, **sections: Any) -> None:
    (project.folder / EXTRA).write_text(yaml.safe_dump(sections))
    project.overlays = [EXTRA]


def test_a_run_starts_from_sft_and_needs_no_reward_model(project: Project) -> None:
    settings = {"sft": "chat", "data": {"demo": {}}, "precision": "float32"}
    optimizer = {"learning_rate": 1.0e-3}
    write(project, dpo={"final": settings | {"optimizer": optimizer}})
    assert project.would_run(RUN) == {"check_rows", "train_dpo"}
    project.snakemake(RUN)

    results = project.folder / "results"
    manifest = json.loads((project.folder / RUN).read_text())
    assert manifest["parents"]["sft"] == digest_file(results / "sft/chat/manifest.json")
    with (results / "dpo/final/metrics.jsonl").open(encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    logged = {name for record in records for name in record}
    assert logged == set(names(tables("metrics.md", "figure")["DPO"]))
    looks = [record for record in records if "validation_loss" in record]
    assert abs(looks[0]["validation_reward_margin"]) < 1e-4
    assert manifest["metrics"] == {
        name: looks[-1][name]
        for name in ("validation_loss", "validation_accuracy", "validation_kendall_tau")
    }
    weights = [(results / run / "model/model.safetensors").read_bytes()
               for run in ("sft/chat", "dpo/final")]  # fmt: skip
    assert weights[0] != weights[1]

    write(project, dpo={"final": settings | {"optimizer": optimizer, "beta": 0.2}})
    assert project.would_run(RUN) == {"train_dpo"}


def test_it_is_evaluated_and_reported_beside_ppo(project: Project) -> None:
    write(
        project,
        dpo={"direct": {"sft": "chat", "data": {"demo": {}}, "precision": "float32"}},
        evaluation={
            "direct": {"dpo": "direct", "reward": "helpful", "max_prompts": 16,
                       "max_new_tokens": 16},
        },
        report={"both": {"evaluations": ["final", "direct"]}},
    )  # fmt: skip
    assert project.would_run(BOTH) == {"check_rows", "train_dpo", "evaluate", "report"}
    project.snakemake(BOTH)

    results = project.folder / "results"
    found = json.loads((results / "evaluation/direct/evaluation.json").read_text())
    assert set(found["models"]) == {"base", "sft", "dpo"}
    assert {"dpo_vs_sft", "dpo_vs_base"} <= set(found["comparisons"])
    manifest = json.loads((results / "evaluation/direct/manifest.json").read_text())
    assert manifest["parents"]["dpo"] == digest_file(results / "dpo/direct/manifest.json")
    assert manifest["parents"]["reward"] == digest_file(results / "reward/helpful/manifest.json")
    ours = json.loads((results / "evaluation/final/evaluation.json").read_text())
    assert found["models"]["sft"] == ours["models"]["sft"], "same prompts, same draws"
    page = (results / "report/both/report.html").read_text()
    for text in ("DPO wins against SFT", "PPO wins against SFT", "Margin of implicit rewards"):
        assert text in page
