"""A reward model from files to what is published, where its options differ from the defaults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlhf.config.reward import RewardConfig
from rlhf.core.files import read_json
from rlhf.errors import DataError
from rlhf.models.reward import load_reply_scorer, new_reply_scorer
from rlhf.models.roots import POOLING
from rlhf.provenance.manifest import read_manifest
from rlhf.stages import fetch_data, fetch_model, tokenize, train_reward
from rlhf.stages.stage import Stage, parse

pytestmark = pytest.mark.usefixtures("leave_no_trace", "no_launcher")

FORMATS = {"scored": {"scores": {"help": 0.5, "short": 0.25}}, "preference": {}}


def stage(
    name: str, config: Any, folder: Path, made: list[str], *inputs: tuple[str, Path]
) -> Stage:
    line = ["--name", name, "--config", json.dumps(config)]
    for role in (*made, "manifest"):
        suffix = {"metrics": ".jsonl", "manifest": ".json", "evaluation": ".json",
                  "statistics": ".json"}.get(role, "")  # fmt: skip
        line += ["--output", role, str(folder / f"{role}{suffix}")]
    for role, manifest in inputs:
        line += ["--input", role, str(manifest / "manifest.json")]
    parsed = parse(line)[0]
    parsed.stage = f"train_{folder.parent.name}"
    return parsed


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, random_source: dict[str, Any]) -> Path:
    """A tiny base model, and a dataset of each format in two views, by the real stages."""
    root = tmp_path_factory.mktemp("results")
    config: dict[str, Any] = {"source": random_source, "template": "chatml"}
    fetch_model.run(stage("tiny", config, root / "models/tiny", ["model"]))
    for name, options in FORMATS.items():
        lines = [
            {"prompt": f"How many legs have {i} spiders?", "response": text, "help": help,
             "short": 4 - help, "chosen": f"They have {8 * i} legs.", "rejected": "How many?"}
            for i in range(40)
            for help, text in enumerate(("How many?", f"They have {i}.", f"They have {8 * i}."))
        ][:: 1 if name == "scored" else 3]  # fmt: skip
        file = root / f"{name}.jsonl"
        file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        data = root / "datasets" / name
        config = {"path": str(file), "format": name, "options": options}
        config |= {"validation_fraction": 0.25, "split_salt": "", "stage_split": None}
        fetch_data.run(stage(name, config, data, ["rows", "statistics"]))
        for view in ("preference", "conversation"):
            config = {"view": view, "max_length": 100, "overlong": "drop"}
            inputs = ("model", root / "models/tiny"), ("data", data)
            tokenize.run(stage(name, config, root / view / name, ["data"], *inputs))
    return root


def train(root: Path, name: str, *sets: str, **changes: Any) -> Path:
    values = {"model": "tiny", "data": {each: {} for each in sets}, "precision": "float32"}
    config = RewardConfig.model_validate(values | changes)
    inputs = [("data", root / "preference" / each) for each in sets]
    inputs += [("demonstrations", root / "conversation" / each) for each in sets]
    folder, made = root / "reward" / name, ["model", "metrics", "evaluation"]
    given = ("start", root / "models/tiny"), *inputs
    train_reward.run(stage(name, config.model_dump(mode="json"), folder, made, *given))
    return folder


def test_a_head_learns_scores_from_means_and_all_else_keeps_its_bytes(root: Path) -> None:
    optimizer = {"learning_rate": 0.1, "schedule": "constant"}
    folder = train(root, "helpful", "scored", pooling="mean", train="head", epochs=20,
                   loss={"kind": "regression"}, score_l2=0.0, optimizer=optimizer)  # fmt: skip
    assert read_json(folder / "model/config.json")[POOLING] == "mean"
    assert load_reply_scorer(folder / "model").pooling == "mean"
    before = new_reply_scorer(root / "models/tiny/model", 0).model.state_dict()
    after = load_file(folder / "model/model.safetensors")
    assert after.keys() == before.keys()
    changed = [name for name, weight in after.items() if not torch.equal(weight, before[name])]
    assert changed == ["score.weight"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert losses[-1] < 0.7 * losses[0]
    manifest, agreement = read_manifest(folder), read_json(folder / "evaluation.json")["agreement"]
    assert manifest["metrics"]["validation_spearman"] == lines[-1]["validation_spearman"]
    assert [row["name"] for row in agreement["datasets"]] == ["scored"]
    assert sum(row["pairs"] for row in agreement["lengths"]) == agreement["datasets"][0]["pairs"]


@pytest.mark.parametrize("loss", [{"kind": "regression"}, {"margin": 1.0}])
def test_a_set_without_scores_is_named_before_training(root: Path, loss: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="have no scores") as caught:
        train(root, "none", "scored", "preference", loss=loss)
    assert f"loss.{next(iter(loss))}" in str(caught.value)
    assert "needs: preference." in str(caught.value)
    assert not (root / "reward/none/metrics.jsonl").exists()
