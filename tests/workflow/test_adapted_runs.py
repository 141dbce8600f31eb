"""Adapters through the pipeline, from a finished project: merged, and published alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.projects import Project

from rlhf.core.digest import digest_file
from rlhf.provenance.lineage import trace

EXTRA = "config/extra.yaml"
SECTIONS = ("sft", "reward", "dpo", "ppo", "evaluation")
RUNS = [f"results/{section}/small/manifest.json" for section in SECTIONS]
RUNS += ["results/ppo/whole/manifest.json"]
ALONE = {"sft", "reward"}
FROZEN = "model.embed_tokens.weight"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model/model.safetensors")


@pytest.mark.slow
def test_every_stage_takes_and_publishes_adapters(project: Project) -> None:
    shared = {
        "data": {"demo": {}},
        "precision": "float32",
        "adapter": {"rank": 4, "dora": True},
        "optimizer": {"learning_rate": 1.0e-2},
    }
    alone = shared | {"adapter": shared["adapter"] | {"publish": "adapter"}}
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
        "sft": {"small": {"model": "tiny", **alone}},
        "reward": {"small": {"sft": "small", **alone}},
        "dpo": {"small": {"sft": "small", **shared}},
        "ppo": {
            "small": {"sft": "small", **shared, **online},
            "whole": {"sft": "small", **alone, **online, "updates": 1,
                      "value": {"kind": "critic", "adapter": False, "learning_rate": 1.0e-3}},
        },
        "evaluation": {"small": {"dpo": "small", "reward": "small", "max_prompts": 4,
                                 "max_new_tokens": 8}},
    }  # fmt: skip
    (project.folder / EXTRA).write_text(yaml.safe_dump(runs))
    project.overlays = [EXTRA]
    project.snakemake(*RUNS)

    results = project.folder / "results"
    starts = {"sft": "models/tiny", "reward": "sft/small", "dpo": "sft/small", "ppo": "sft/small"}
    manifests = {}
    for section, start in starts.items():
        artifact = results / section / "small"
        manifests[section] = json.loads((artifact / "manifest.json").read_text())
        files = manifests[section]["files"].keys()
        assert {f"model/adapter/adapter_{n}" for n in ("config.json", "model.safetensors")} < files
        config = json.loads((artifact / "model/adapter/adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == f"results/{start}/model"
        assert ("model/model.safetensors" in files) == (section not in ALONE)
    before = weights(results / "models/tiny")
    changed = "model.layers.0.self_attn.q_proj.weight"
    for section in ("dpo", "ppo"):
        after = weights(results / section / "small")
        assert before.keys() - {"lm_head.weight"} <= after.keys()
        assert torch.equal(before[FROZEN].float(), after[FROZEN])
        assert not torch.allclose(before[changed].float(), after[changed], atol=1e-6)
    metrics = (results / "ppo/small/metrics.jsonl").read_text().splitlines()
    assert abs(json.loads(metrics[0])["kl"]) < 1e-3
    value = load_file(results / "ppo/small/value/model.safetensors")
    assert value.keys() == {f"model.{name}" for name in before} - {"model.lm_head.weight"} | {
        "model.score.weight"
    }

    whole = load_file(results / "ppo/whole/value/model.safetensors")
    assert whole.keys() == value.keys()
    assert not torch.equal(whole[f"model.{FROZEN}"], value[f"model.{FROZEN}"])

    base = digest_file(results / "models/tiny/manifest.json")
    for section in ("reward", "dpo"):
        assert manifests[section]["parents"]["bases"] == base
    edges = {(edge.role, edge.child) for edge in trace(project.folder / RUNS[3]).edges
             if edge.parent == base}  # fmt: skip
    assert {role for role, _ in edges} > {"start"}
    assert "all as their manifests say" in project.rlhf("verify", "results/sft").stdout
    assert project.rlhf("chat", "results/sft/small", "--prompt", "Hi").returncode == 0
    configs = ["--configfile", project.config, EXTRA]
    explained = project.rlhf("explain", *RUNS, "--profile", "local", *configs)
    assert "Nothing would run" in explained.stdout
    shutil.rmtree(results / "models/tiny")
    assert "is not there" in project.rlhf("verify", "results/sft/small").stdout
    again = project.would_run("results/dpo/small/manifest.json", "--forcerun", "train_dpo")
    assert {"fetch_model", "train_dpo"} <= again, (
        "the base is an input, like the run it starts from"
    )
