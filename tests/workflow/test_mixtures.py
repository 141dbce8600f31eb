"""Datasets that a second configuration file adds, drawn in shares and without what they repeat."""

from __future__ import annotations

import json

import pytest
import yaml
from support.jobs import FROM_SFT
from support.projects import TINY, Project

EXTRA = "config/extra.yaml"


def dialogue(question: str, answer: str) -> str:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}) + "\n"


@pytest.mark.slow
def test_a_mixture_from_two_files(project: Project) -> None:
    lines = [dialogue(f"What is {i} and {i}?", f"It is {2 * i}.") for i in range(40)]
    (project.folder / "more.jsonl").write_text("".join(lines + lines[:7]))

    def overlay(share: dict) -> None:
        run = {"data": {"more": share, "demo": {"weight": 1}}, "duplicates": {"remove": "near"}}
        datasets = {"more": {"path": "more.jsonl", "format": "messages"}}
        values = {"datasets": datasets, "sft": {"chat": run}}
        (project.folder / EXTRA).write_text(yaml.safe_dump(values))

    overlay({"weight": 3})
    project.overlays = [EXTRA]
    assert (
        project.would_run() == {"fetch_data", "tokenize:conversation", "find_duplicates"} | FROM_SFT
    )
    target = "results/sft/chat/manifest.json"
    project.snakemake(target)
    manifest = json.loads((project.folder / target).read_text())
    found = json.loads((project.folder / "results/duplicates/sft.chat/manifest.json").read_text())
    counts, repeats = manifest["counts"], found["counts"]["more"]
    assert 0 < repeats["exact"] <= 7
    rows = repeats["rows"] - sum(repeats[kind] for kind in ("exact", "near", "held_out"))
    demo = found["counts"]["demo"]
    assert counts["train_rows"] == rows + demo["rows"] - demo["near"] - demo["exact"]
    drawn = counts["epoch_rows"]
    assert sum(drawn.values()) == counts["train_rows"]
    assert abs(drawn["more"] - 3 * drawn["demo"]) <= 2
    assert project.would_run(target) == set()
    shown = project.rlhf("data", "stats", "sft.chat", "--configfile", TINY, EXTRA)
    assert f"{counts['train_rows']} rows" in shown.stdout, shown.stderr

    overlay({"weight": 2})
    assert project.would_run(target) == {"train_sft"}
