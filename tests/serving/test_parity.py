"""The check that a store answers as its model does."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys

import pytest
import transformers
from support.served_models import make_store

from rlhf.core.files import read_json, write_json
from rlhf.errors import IntegrityError
from rlhf.models.roots import POOLING
from rlhf.provenance.manifest import verify
from rlhf.serving import parity
from rlhf.serving.parity import check_parity
from rlhf.serving.server import TritonServer
from rlhf.serving.store import export_store


def models_here() -> int:
    gc.collect()
    kinds = (type(one) for one in gc.get_objects())
    return sum(issubclass(kind, transformers.PreTrainedModel) for kind in kinds)


def test_reference_passes(reference, tmp_path, monkeypatch):
    """Checklist 17. No model of this process is left when the server loads its own."""
    before, left = models_here(), []

    class Watched(TritonServer):
        def start(self) -> None:
            left.append(models_here() - before)
            super().start()

    monkeypatch.setattr(parity, "TritonServer", Watched)
    report = check_parity(
        "reference", reference.model, reference.store, tmp_path / "log", 1, tolerance=1e-4
    )
    assert left == [0]
    assert report["passed"]
    names = {case["case"] for case in report["cases"]}
    assert "4 responses to one prompt" in names
    for length in (2, 7, 33, 128, 160):
        assert {f"length {length}, padding {side}" for side in ("none", "left", "right")} <= names


def test_means_over_tokens_are_served(reward, tmp_path):
    """Alone, padded, and where rows share their beginning; scores of last tokens are others."""
    shutil.copytree(reward.model, tmp_path / "model")
    config = read_json(tmp_path / "model/config.json")
    write_json(tmp_path / "model/config.json", config | {POOLING: "mean"})
    export_store("reward", tmp_path / "model", tmp_path / "store", reward.identity)
    report = check_parity(
        "reward", tmp_path / "model", tmp_path / "store", tmp_path / "log", 1, 1e-4
    )
    assert report["passed"]
    with pytest.raises(IntegrityError, match="does not answer as its model does"):
        check_parity("reward", tmp_path / "model", reward.store, tmp_path / "log", 1, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["reward", "reference"])
def test_bfloat16_passes_within_its_own_bounds(request, kind, tmp_path):
    given = request.getfixturevalue(kind)
    other = make_store(tmp_path / "other", kind, seed=9)

    def check(model):
        store = tmp_path / model.store.parent.name / "narrow"
        export_store(kind, model.model, store, model.identity, dtype="bfloat16")
        return check_parity(kind, given.model, store, tmp_path / "log", 1, 0.1, dtype="bfloat16")

    assert check(given)["passed"]
    with pytest.raises(IntegrityError, match="bfloat16"):
        check(other)


def test_other_weights_fail(reward, tmp_path):
    other = make_store(tmp_path / "other", "reward", seed=9)
    store = tmp_path / "tampered"
    export_store("reward", reward.model, store, reward.identity)
    weights = store / "reward" / "1" / "hf" / "model.safetensors"
    weights.unlink()  # a link to the model's own file
    shutil.copyfile(other.model / "model.safetensors", weights)
    with pytest.raises(IntegrityError, match="length 1, padding none: at most"):
        check_parity("reward", reward.model, store, tmp_path / "log", 1, tolerance=1e-4)


def test_stage_writes_store_report_and_manifest(reward, tmp_path):
    config = {"max_batch_size": 16, "max_batch_tokens": 512, "tolerance": None, "dtype": "auto"}
    config |= {"kind": "reward", "longest": 48}
    outputs = {"repository": "repository", "parity": "parity.json", "manifest": "manifest.json"}
    command = [sys.executable, "-m", "rlhf.stages.export_store", "--name", "helpful"]
    command += ["--config", json.dumps(config)]
    command += ["--input", "model", f"{reward.artifact}/manifest.json"]
    for role, name in outputs.items():
        command += ["--output", role, str(tmp_path / name)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=1800)
    manifest = read_json(tmp_path / "manifest.json")
    assert manifest["facts"]["identity"] == reward.identity
    assert manifest["stage"] == "export_store"
    assert verify(tmp_path) == []
    assert not any("__pycache__" in name or name.endswith(".log") for name in manifest["files"])
    report = read_json(tmp_path / "parity.json")
    assert report["passed"]
    assert report["tolerance"] == 1e-3, "that of float32, the type on a CPU"
    assert "length 48, padding none" in {case["case"] for case in report["cases"]}
    assert {path.name for path in tmp_path.iterdir()} == {*outputs.values(), "run.json"}
