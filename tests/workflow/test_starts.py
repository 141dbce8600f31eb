"""What runs start from: a base model, or an SFT run. And the default precision, end to end."""

from __future__ import annotations

import json

import pytest
import yaml
from support.projects import Project

from rlhf.core.digest import digest_file

EXTRA = "config/extra.yaml"
MORE, EARLY = "results/sft/more/manifest.json", "results/reward/early/manifest.json"


@pytest.mark.slow
def test_an_sft_run_goes_on_and_a_reward_model_starts_early(project: Project) -> None:
    data = {"demo": {}}
    runs = {
        "sft": {"more": {"sft": "chat", "data": data}},
        "reward": {"early": {"model": "tiny", "data": data}},
    }
    (project.folder / EXTRA).write_text(yaml.safe_dump(runs))
    project.overlays = [EXTRA]
    assert project.would_run(MORE, EARLY) == {"check_rows", "train_sft", "train_reward"}
    project.snakemake(MORE, EARLY)

    results = project.folder / "results"
    for made, start in ((MORE, "sft/chat"), (EARLY, "models/tiny")):
        manifest = json.loads((project.folder / made).read_text())
        assert manifest["parents"]["start"] == digest_file(results / start / "manifest.json")
        assert manifest["config"]["precision"] == "bfloat16"
    weights = [
        (results / f"sft/{name}/model/model.safetensors").read_bytes() for name in ("chat", "more")
    ]
    assert weights[0] != weights[1]

    project.replace(project.config, "learning_rate: 1.0e-3", "learning_rate: 5.0e-4")
    assert project.would_run(MORE) == {"train_sft"}, "both, one after the other"
    assert project.would_run(EARLY) == set()
