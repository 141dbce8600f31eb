"""ILQL, from a finished project's SFT run: trained, decoded by advantages, reported."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.page_tables import names, tables
from support.projects import Project

from rlhf.core.digest import digest_file
from rlhf.models.advantage import AdvantagePolicy, load_heads
from rlhf.models.load import load_token_scorer

EXTRA = "config/extra.yaml"
RUN, REPORT = "results/ilql/values/manifest.json", "results/report/values/manifest.json"


def write(project: Project, **sections: Any) -> None:
    (project.folder / EXTRA).write_text(yaml.safe_dump(sections))
    project.overlays = [EXTRA]


@pytest.mark.slow
def test_values_are_learned_from_replies_and_decoded_with(project: Project) -> None:
    run = {"sft": "chat", "data": {"demo": {}}, "precision": "float32", "alpha": 0.5}
    sampled = {"max_prompts": 16, "max_new_tokens": 16, "reward": "helpful"}
    sections: dict[str, Any] = {
        "ilql": {"values": run},
        "evaluation": {
            "values": {"ilql": "values", **sampled, "advantage": {"beta": 8.0, "top_k": 5}},
            "policy": {"ilql": "values", **sampled, "advantage": {"beta": 0.0}},
        },
        "report": {"values": {"evaluations": ["final", "values", "policy"]}},
    }
    write(project, **sections)
    assert project.would_run(RUN) == {"check_rows", "train_ilql"}
    project.snakemake(REPORT)

    results = project.folder / "results"
    manifest = json.loads((project.folder / RUN).read_text())
    assert manifest["parents"]["sft"] == digest_file(results / "sft/chat/manifest.json")
    with (results / "ilql/values/metrics.jsonl").open(encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    logged = {name for record in records for name in record}
    assert logged == set(names(tables("metrics.md", "figure")["ILQL"]))
    last = [record for record in records if "validation_loss" in record][-1]
    assert manifest["metrics"] == {
        name: last[name]
        for name in ("validation_loss", "validation_accuracy", "validation_kendall_tau")
    }

    folder = results / "ilql/values/model"
    policy = load_token_scorer(folder)  # a plain language model
    start = load_file(results / "sft/chat/model/model.safetensors")
    weights = load_file(folder / "model.safetensors")
    assert weights.keys() == start.keys()
    assert any(not torch.equal(weights[name], start[name]) for name in start)
    shifted = AdvantagePolicy(policy, load_heads(folder, policy), 8.0, 5)
    with torch.no_grad():
        states = torch.randn(2, policy.width)
        assert not torch.equal(shifted.logits(states), policy.logits(states))

    found = {
        name: json.loads((results / f"evaluation/{name}/evaluation.json").read_text())["models"]
        for name in ("final", "values", "policy")
    }
    assert found["values"].keys() == {"base", "sft", "ilql"}
    assert found["values"]["sft"] == found["final"]["sft"], "same prompts, same draws"
    assert found["values"]["ilql"]["kl"] > found["policy"]["ilql"]["kl"] + 1
    page = (results / "report/values/report.html").read_text()
    for text in ("ILQL wins against SFT", "Accuracy of Q at the last token"):
        assert text in page

    evaluations = sections["evaluation"]
    evaluations["values"]["advantage"]["beta"] = 4.0
    write(project, **sections)
    assert project.would_run(REPORT) == {"evaluate", "report"}
