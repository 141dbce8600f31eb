import pytest

from rlhf.cli import main


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
