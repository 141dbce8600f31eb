from __future__ import annotations

import json
import time

import pytest

from rlhf.core.digest import digest_file
from rlhf.errors import IntegrityError
from rlhf.provenance.manifest import Manifest, read_manifest, verify


def make(folder, **changes):
    """An artifact with a folder and a file as outputs."""
    (folder / "model" / "deep").mkdir(parents=True)
    (folder / "model" / "weights").write_bytes(b"\x00" * 10)
    (folder / "model" / "deep" / "config").write_text("{}")
    (folder / "metrics.jsonl").write_text('{"loss":1}\n')
    (folder / "not-an-output").write_text("x")
    values = {
        "stage": "sft", "name": "chat", "config": {"epochs": 2, "rate": 0.1}, "code": "c" * 64,
        "image": "", "parents": {"data": "d" * 64}, "counts": {"rows": 3},
        "metrics": {"loss": 0.1 + 0.2}, "facts": {"threads": 1},
    }  # fmt: skip
    manifest = Manifest(**values | changes)
    manifest.write(folder, [folder / "model", folder / "metrics.jsonl"], time.time() - 5)
    return manifest


@pytest.fixture
def artifact(tmp_path):
    make(tmp_path / "chat")
    return tmp_path / "chat"


def test_a_manifest_describes_every_output(artifact):
    found = read_manifest(artifact)
    assert found == read_manifest(artifact / "manifest.json")
    assert sorted(found["files"]) == ["metrics.jsonl", "model/deep/config", "model/weights"]
    assert found["files"]["model/weights"] == {
        "size": 10, "sha256": digest_file(artifact / "model" / "weights")
    }  # fmt: skip
    assert (found["stage"], found["name"], found["schema"]) == ("sft", "chat", 1)
    assert found["metrics"]["loss"] == 0.1 + 0.2
    assert verify(artifact) == verify(artifact / "manifest.json") == []


def test_equal_work_gives_equal_bytes_and_times_stand_elsewhere(tmp_path):
    make(tmp_path / "a")
    make(tmp_path / "b", config={"rate": 0.1, "epochs": 2})
    make(tmp_path / "c", config={"rate": 0.1, "epochs": 3})
    texts = [(tmp_path / name / "manifest.json").read_bytes() for name in "abc"]
    assert texts[0] == texts[1] != texts[2]
    run = json.loads((tmp_path / "a" / "run.json").read_text())
    assert run["seconds"] == pytest.approx(5, abs=3)
    assert run["host"] not in texts[0].decode() or not run["host"]


def test_the_tree_digest_follows_the_files(tmp_path):
    first = make(tmp_path / "a")
    (tmp_path / "a" / "model" / "weights").write_bytes(b"\x01" * 10)
    other = Manifest("sft", "chat", {}, "", "", {})
    other.write(tmp_path / "a", [tmp_path / "a" / "model", tmp_path / "a" / "metrics.jsonl"], 0)
    assert first.tree != other.tree
    assert read_manifest(tmp_path / "a")["tree"] == other.tree
    assert read_manifest(tmp_path / "a")["config_digest"] != first.as_dict()["config_digest"]


def test_verify_names_what_is_missing_resized_or_changed(artifact):
    (artifact / "metrics.jsonl").unlink()
    (artifact / "model" / "weights").write_bytes(b"\x00" * 11)
    (artifact / "model" / "deep" / "config").write_text("[]")
    problems = {line.rpartition("/")[2] for line in verify(artifact)}
    assert problems == {
        "metrics.jsonl: missing",
        "weights: 11 bytes, manifest says 10",
        "config: content differs from the manifest (sha256)",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "no manifest"), ("{", "damaged"), ("[1]", "schema"), ('{"schema": 99}', "schema")],
)
def test_unusable_manifests_are_explained(artifact, text, message):
    path = artifact / "manifest.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(IntegrityError, match=message) as error:
        verify(artifact)
    assert error.value.where == path
    assert "snakemake" in error.value.hint
