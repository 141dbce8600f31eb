"""The stage by hand: what the run's options make of its result."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.programs.supervised_ranks import config, make_rows
from support.tiny_models import causal_lm, save_rows
from torch import equal

from rlhf.core.files import read_json, write_json
from rlhf.stages import train_sft
from rlhf.stages.stage import parse

pytestmark = pytest.mark.usefixtures("leave_no_trace")


@pytest.fixture
def train(tmp_path, make_tokenizer):
    """``train("name", key=value)``: the manifest, the weights and the metrics."""
    base, data = tmp_path / "base", tmp_path / "sets" / "d"
    tokenizer = make_tokenizer("chatml")
    causal_lm(0, vocabulary=max(300, len(tokenizer))).save_pretrained(base / "model")
    tokenizer.save_pretrained(base / "model")
    rows = [{"id": f"{i}", **row} for i, row in enumerate(make_rows())]
    save_rows(data / "data", train=rows[:6], validation=rows[6:])
    shared = {"schema": 1, "facts": {"tokenizer_digest": "t", "template_digest": "t"}}
    write_json(base / "manifest.json", shared)
    write_json(
        data / "manifest.json", shared | {"config": {"view": "conversation", "max_length": 64}}
    )

    def train(name, **changes):
        settings = config(precision="float32", epochs=2, **changes)
        out = tmp_path / name
        words = ["--name", "x", "--config", json.dumps(settings.model_dump(mode="json"))]
        for role in ("model", "metrics.jsonl", "manifest.json"):
            words += ["--output", role.partition(".")[0], str(out / role)]
        words += ["--input", "start", str(base / "manifest.json")]
        words += ["--input", "data", str(data / "manifest.json")]
        train_sft.run(dataclasses.replace(parse(words)[0], stage="train_sft"))
        lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        manifest = read_json(out / "manifest.json")
        return manifest, load_file(out / "model" / "model.safetensors"), [*map(json.loads, lines)]

    return train


def test_every_option_reaches_the_weights(train):
    _, plain, metrics = train("plain")
    for number, option in enumerate((
        {"loss": {"kind": "poly"}},
        {"residual_dropout": {"rate": 0.3}},
        {"neftune_alpha": 5.0},
        {"ema": {"decay": 0.9}},
    )):  # fmt: skip
        _, changed, _ = train(f"changed-{number}", **option)
        assert any(not equal(changed[name], tensor) for name, tensor in plain.items()), option
    _, defaults, again = train("defaults", loss={}, residual_dropout={}, selection={})
    assert metrics == again
    for name, tensor in plain.items():
        assert equal(defaults[name], tensor), name


def test_the_manifest_speaks_of_the_weights_that_are_kept(train):
    """Training diverges on purpose: the first validated weights are the best."""
    steep = {"learning_rate": 0.5, "schedule": "constant", "warmup": 0.0}
    selection = {"keep": "best", "patience": 2}
    manifest, _, metrics = train("best", optimizer=steep, evaluations=4, selection=selection)
    losses = {one["step"]: one["validation_loss"] for one in metrics if "validation_loss" in one}
    del losses[0]
    best = min(losses, key=losses.__getitem__)
    assert best < max(losses)
    assert manifest["counts"]["kept_step"] == best
    assert manifest["metrics"]["validation_loss"] == losses[best]
    assert "kept_step" not in train("last")[0]["counts"]


def test_every_stage_that_learns_from_rows_puts_dropout_in():
    """Their configurations all have it; a stage that forgot it would ignore the option."""
    stages = Path(train_sft.__file__).parent.glob("*.py")
    texts = {path.name: path.read_text(encoding="utf-8") for path in stages}
    learning = {
        name
        for name, text in texts.items()
        if re.search(r"rlhf\.training\.loop import .*\btrain\b", text)
    }
    assert {"train_sft.py", "train_reward.py", "preference.py"} <= learning
    assert [name for name in sorted(learning) if "regularize(stage, " not in texts[name]] == []
