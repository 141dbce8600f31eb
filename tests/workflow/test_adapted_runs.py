"""Adapters through the pipeline: SFT, reward model, DPO and PPO, from a finished project."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file
from support.projects import Project

EXTRA = "config/extra.yaml"
RUNS = [f"results/{section}/small/manifest.json" for section in ("sft", "reward", "dpo", "ppo")]
FROZEN = "model.embed_tokens.weight"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model/model.safetensors")


def test_every_stage_publishes_a_merged_model_and_its_adapter(project: Project) -> None:
    shared = {
        "data": {"demo": {}},
        "precision": "float32",
        "adapter": {"rank": 4, "dora": True},
        "optimizer": {"learning_rate": 1.0e-2},
    }
    online = {
        "reward": "small",
        "updates": 2,
        "rollout_batch_size": 8,
        "minibatch_size": 8,
        "scoring": "local",
        "sampling": {"max_new_tokens": 8},
        "value": {"kind": "critic"},
    }
    runs = {
        "sft": {"small": {"model": "tiny", **shared}},
        "reward": {"small": {"sft": "small", **shared}},
        "dpo": {"small": {"sft": "small", **shared}},
        "ppo": {"small": {"sft": "small", **shared, **online}},
    }
    (project.folder / EXTRA).write_text(yaml.safe_dump(runs))
    project.overlays = [EXTRA]
    project.snakemake(*RUNS)

    results = project.folder / "results"
    starts = {"sft": "models/tiny", "reward": "sft/small", "dpo": "sft/small", "ppo": "sft/small"}
    for section, start in starts.items():
        artifact = results / section / "small"
        manifest = json.loads((artifact / "manifest.json").read_text())
        files = {f"model/adapter/adapter_{name}" for name in ("config.json", "model.safetensors")}
        assert files < manifest["files"].keys()
        config = json.loads((artifact / "model/adapter/adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == f"results/{start}/model"
        before, after = weights(results / start), weights(artifact)
        assert before.keys() - {"lm_head.weight"} <= after.keys()
        assert torch.equal(before[FROZEN].float(), after[FROZEN])
        changed = "model.layers.0.self_attn.q_proj.weight"
        assert not torch.allclose(before[changed].float(), after[changed], atol=1e-6)
    metrics = (results / "ppo/small/metrics.jsonl").read_text().splitlines()
    assert abs(json.loads(metrics[0])["kl"]) < 1e-3
    value = load_file(results / "ppo/small/value/model.safetensors")
    assert value.keys() == {f"model.{name}" for name in weights(results / "reward/small")}
