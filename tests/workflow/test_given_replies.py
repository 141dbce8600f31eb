"""KTO, ORPO, SimPO and CPO, from a finished project: all in one call."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from support.page_tables import names, tables
from support.projects import Project

EXTRA = "config/extra.yaml"
TITLES = {"kto": "KTO", "orpo": "ORPO", "simpo": "SimPO", "cpo": "CPO"}


def section(start: str, name: str, dataset: str) -> dict[str, Any]:
    optimizer = {"learning_rate": 1.0e-3}
    shared = {"data": {dataset: {}}, "precision": "float32", "optimizer": optimizer}
    return {"small": {start: name, **shared}}


@pytest.mark.slow
def test_they_are_trained_evaluated_and_reported(project: Project) -> None:
    """ORPO from the base model: its evaluation has no SFT model."""
    demo = {"path": "demo/trees.jsonl", "format": "oasst", "validation_fraction": 0.25}
    sections = {
        "datasets": {"judged": demo | {"options": {"feedback": "best"}}},
        "kto": section("sft", "chat", "judged"),
        "orpo": section("model", "tiny", "demo"),
        "simpo": section("sft", "chat", "demo"),
        "cpo": section("sft", "chat", "demo"),
        "evaluation": {"alone": {"orpo": "small", "reward": "helpful", "max_prompts": 8,
                                 "max_new_tokens": 8}},
        "report": {"alone": {"evaluations": ["alone"]}},
    }  # fmt: skip
    (project.folder / EXTRA).write_text(yaml.safe_dump(sections))
    project.overlays = [EXTRA]
    wanted = [f"results/{one}/small/manifest.json" for one in TITLES]
    wanted.append("results/report/alone/manifest.json")
    would = project.would_run(*wanted)
    assert would == {
        *("fetch_data", "tokenize:feedback", "check_rows", "evaluate", "report"),
        *(f"train_{one}" for one in TITLES),
    }
    project.snakemake(*wanted)

    results = project.folder / "results"
    for one, title in TITLES.items():
        manifest = json.loads((results / one / "small/manifest.json").read_text())
        with (results / one / "small/metrics.jsonl").open(encoding="utf-8") as lines:
            records = [json.loads(line) for line in lines]
        logged = {name for record in records for name in record}
        assert logged == set(names(tables("metrics.md", "figure")[title]))
        looks = [record for record in records if "validation_loss" in record]
        assert manifest["metrics"]["validation_loss"] == looks[-1]["validation_loss"]
        assert manifest["metrics"]["validation_accuracy"] == looks[-1]["validation_accuracy"]
        assert ("sft" in manifest["parents"]) == (one != "orpo")
        if one == "kto":
            # Of some three replies to a prompt one is the best.
            assert manifest["counts"]["balance"] < 1
            assert "desirable_weight" in manifest["facts"]["warning"]
            assert looks[0]["validation_loss"] == pytest.approx(0.5, abs=1e-4)
    found = json.loads((results / "evaluation/alone/evaluation.json").read_text())
    assert set(found["models"]) == {"base", "orpo"}
    assert set(found["comparisons"]) == {"orpo_vs_base"}
    assert found["models"]["base"]["kl"] == 0
    assert found["models"]["orpo"]["kl"] != 0
    manifest = json.loads((results / "evaluation/alone/manifest.json").read_text())
    assert manifest["metrics"]["orpo_vs_base"] == found["comparisons"]["orpo_vs_base"]
    page = (results / "report/alone/report.html").read_text()
    for text in ("Log odds ratio", "ORPO wins against", "Reward, Base → ORPO"):
        assert text in page
