import numpy as np
import pytest
from safetensors.numpy import save_file

from rlhf.cli import main
from rlhf.provenance.manifest import Manifest


@pytest.fixture
def two(results):
    base = results.make("models/tiny", "fetch_model")
    results.make("sft/chat", "train_sft", parents={"model": base})
    return results


def test_all_is_well(two, capsys):
    assert main(["verify"]) == 0
    assert capsys.readouterr().out == "2 artifacts, 4 files: all as their manifests say\n"


def test_names_missing_resized_and_changed_files(two, capsys):
    (two.root / "sft/chat/metrics.jsonl").unlink()
    (two.root / "sft/chat/model/model.bin").write_text("longer than before")
    (two.root / "models/tiny/model/model.bin").write_text("Weights")
    assert main(["verify"]) == 1
    out = capsys.readouterr().out
    assert "results/sft/chat/metrics.jsonl: missing" in out
    assert "results/sft/chat/model/model.bin: 18 bytes" in out
    assert "results/models/tiny/model/model.bin: content differs" in out
    assert out.endswith("2 artifacts: 3 problems\n")


def test_one_artifact_by_folder_or_manifest(two, capsys):
    (two.root / "sft/chat/metrics.jsonl").unlink()
    assert main(["verify", "results/models"]) == 0
    assert main(["verify", "results/models/tiny/manifest.json"]) == 0
    assert main(["verify", "results/models", "results/sft/chat/manifest.json"]) == 1


def test_damaged_manifest_is_one_problem_among_others(two, capsys):
    (two.root / "models/tiny/manifest.json").write_text("{")
    assert main(["verify"]) == 1
    assert "results/models/tiny/manifest.json: The manifest is damaged" in capsys.readouterr().out


def test_nothing_here(results, capsys):
    assert main(["verify"]) == 2
    assert "There are no artifacts here" in capsys.readouterr().err


def artifact(folder, stage, *outputs):
    Manifest(stage, folder.name, {}, "code:x", "image:none", {}).write(folder, list(outputs), 0.0)


def test_names_weights_that_are_not_finite(two, capsys):
    model = two.root / "ppo/final/model"
    model.mkdir(parents=True)
    head, body = np.ones((4, 3), np.float32), np.ones((2, 2), np.float32)
    head[1, 2], head[3, 0] = np.nan, np.inf
    save_file({"head": head, "body": body}, model / "model-1.safetensors")
    save_file({"other": body}, model / "model-2.safetensors")
    artifact(model.parent, "train_ppo", model)
    assert main(["verify"]) == 1
    path = "results/ppo/final/model/model-1.safetensors"
    assert capsys.readouterr().out == (
        f"{path}: head holds 2 numbers that are NaN or infinite\n3 artifacts: 1 problems\n"
    )


def test_says_which_manifests_list_no_files(two, capsys):
    page = two.root / "report/final/report.html"
    page.parent.mkdir(parents=True)
    page.write_text("<p>")
    artifact(page.parent, "report")
    assert main(["verify"]) == 0
    said = "results/report/final/manifest.json: lists no files, so nothing beside it was compared\n"
    out = capsys.readouterr().out
    assert out == f"{said}2 artifacts, 4 files: all as their manifests say\n"
    assert main(["verify", "results/report"]) == 0
    assert capsys.readouterr().out == said
