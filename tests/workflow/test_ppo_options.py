"""PPO with branches, a pretraining loss, stop texts and presets, from a finished project."""

from __future__ import annotations

import json

import pytest
import yaml
from safetensors.torch import load_file
from support.projects import Project

EXTRA = "config/extra.yaml"
COMMON = {
    "sft": "chat",
    "reward": "helpful",
    "data": {"demo": {}},
    "scoring": "local",
    "updates": 2,
    "rollout_batch_size": 4,
    "minibatch_size": 4,
    "precision": "float32",
}


@pytest.mark.slow
def test_a_run_with_every_option(project: Project) -> None:
    branched = COMMON | {
        "freeze_layers": 1,
        "reference": "frozen_branch",
        "sampling": {
            "max_new_tokens": 8, "top_p": 0.9, "top_k": 50, "min_p": 0.001, "min_new_tokens": 2,
            "stop": ["the", "a"],
        },
        "value": {"kind": "branch", "layers": 1, "warmup": 1, "clip": None, "learning_rate": 1e-2},
        "advantages": "shift",
        "ptx": {"data": {"demo": {}}, "coefficient": 1.0, "batch_size": 3},
    }  # fmt: skip
    preset = COMMON | {
        "preset": "deepspeed_chat",
        "adapter": {},
        "sampling": {"max_new_tokens": 8},
        "value": {"start": "sft"},
    }
    evaluation = {"ppo": "branched", "max_prompts": 4, "max_new_tokens": 8, "top_p": 0.9,
                  "stop": ["the"]}  # fmt: skip
    runs = {"ppo": {"branched": branched, "preset": preset}, "evaluation": {"small": evaluation}}
    (project.folder / EXTRA).write_text(yaml.safe_dump(runs))
    project.overlays = [EXTRA]
    project.snakemake("results/ppo/preset/manifest.json", "results/evaluation/small/manifest.json")

    results = project.folder / "results"
    manifest = json.loads((results / "ppo/branched/manifest.json").read_text())
    assert "ptx" in manifest["parents"]
    value = load_file(results / "ppo/branched/value/model.safetensors")
    assert {name.partition(".")[0] for name in value} == {"branch", "head"}
    records = (results / "ppo/branched/metrics.jsonl").read_text().splitlines()
    assert ["ptx_loss" in json.loads(record) for record in records] == [False, True]
    before = load_file(results / "sft/chat/model/model.safetensors")
    after = load_file(results / "ppo/branched/model/model.safetensors")
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed
    assert all(name.startswith(("model.layers.1.", "model.norm.")) for name in changed)

    written = json.loads((results / "ppo/preset/manifest.json").read_text())["config"]
    assert written["optimizer"]["learning_rate"] == 9.65e-6, "the preset is written out"
    assert written["value"]["kind"] == "critic"
    report = json.loads((results / "evaluation/small/sampling_report.json").read_text())
    params = report["prompts"][0]["results"][0]["sampling_params"]
    assert (params["top_p"], params["stop"]) == (0.9, ["the"])
