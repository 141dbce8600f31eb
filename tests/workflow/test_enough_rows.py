"""A run that lacks held-out rows is refused before what it builds on trains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from support.projects import TINY, Project


@pytest.mark.slow
def test_nothing_trains_for_a_reward_model_that_could_not_be_calibrated(tmp_path: Path) -> None:
    project = Project.clone(tmp_path / "project")
    rows = [
        {"prompt": f"What is a {one}?", "chosen": f"A {one} is a colour.", "rejected": "No idea."}
        for one in ("red", "blue", "green", "white")
    ]
    (project.folder / "few.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    config = project.folder / TINY
    values = yaml.safe_load(config.read_text())
    for section in ("ppo", "evaluation", "report"):
        del values[section]
    values["datasets"]["demo"] = {
        "path": "few.jsonl", "format": "preference", "validation_fraction": 0.0
    }  # fmt: skip
    config.write_text(yaml.safe_dump(values, sort_keys=False))
    done = project.snakemake(check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert "There are no held-out demonstrations to calibrate the reward model on." in said
    assert "reward.helpful.data: demo" in said
    assert "raise `validation_fraction`" in said
    assert "Traceback" not in said
    assert (project.folder / "results/tokenized/conversation/tiny/demo/manifest.json").is_file()
    assert not (project.folder / "results/sft").exists()
    assert not (project.folder / "state/train_sft").exists()
