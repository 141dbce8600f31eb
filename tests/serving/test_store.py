"""The store on the disk: layout, identity, and nothing of this machine in it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from support.served_models import make_artifact

from rlhf.core.digest import describe_tree
from rlhf.core.files import read_json, write_json
from rlhf.errors import IntegrityError
from rlhf.provenance.code import digest_code
from rlhf.serving import store as store_module
from rlhf.serving.store import export_store, model_identity, store_kind, tree_identity

MODEL_FILE = Path(store_module.__file__).parent / store_module.CODE_FILES[0]


@pytest.mark.parametrize("kind", ["reward", "reference"])
def test_layout(kind, request):
    exported = request.getfixturevalue(kind)
    assert set(describe_tree(exported.store)) == {
        "identity.json",
        f"{kind}/config.pbtxt",
        f"{kind}/1/model.py",
        f"{kind}/1/spread.py",
        f"{kind}/1/hf/config.json",
        f"{kind}/1/hf/model.safetensors",
    }
    assert store_kind(exported.store) == kind
    assert read_json(exported.store / "identity.json") == exported.identity
    weights = exported.store / kind / "1" / "hf" / "model.safetensors"
    assert weights.samefile(exported.model / "model.safetensors")  # no second copy on the disk


def test_no_path_of_this_machine(tmp_path):
    artifact = make_artifact(tmp_path / "artifact", "reference", seed=5)
    config = read_json(artifact / "model" / "config.json")
    write_json(artifact / "model" / "config.json", config | {"_name_or_path": str(tmp_path)})
    export_store(
        "reference", artifact / "model", tmp_path / "store", model_identity("reference", artifact)
    )
    for path in (tmp_path / "store").rglob("*"):
        assert not path.is_symlink()
        if path.is_file():
            assert str(tmp_path).encode() not in path.read_bytes(), path


def test_same_model_same_bytes(tmp_path, reward):
    for name in ("a", "b"):
        export_store("reward", reward.model, tmp_path / name, reward.identity)
    assert describe_tree(tmp_path / "a") == describe_tree(tmp_path / "b")


def test_failed_export_leaves_nothing(tmp_path, reward):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(IntegrityError, match="no weights"):
        export_store("reward", tmp_path / "model", tmp_path / "store", reward.identity)
    with pytest.raises(IntegrityError, match="does not fit"):
        export_store("reference", reward.model, tmp_path / "store", reward.identity)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_identity_needs_every_digest(tmp_path):
    artifact = make_artifact(tmp_path / "artifact", "reward", seed=6)
    (artifact / "model" / "calibration.json").unlink()
    with pytest.raises(IntegrityError, match="no calibration"):
        model_identity("reward", artifact)
    manifest = read_json(artifact / "manifest.json")
    del manifest["facts"]["template_digest"]
    write_json(artifact / "manifest.json", manifest)
    with pytest.raises(IntegrityError, match="digest of its template"):
        model_identity("reference", artifact)


def test_identity_follows_the_weights(reward, reference):
    assert tree_identity(reward.model) == reward.identity["weights"]
    assert tree_identity(reward.model) != tree_identity(reference.model)


def test_tensors_cross_by_dlpack_only():
    """Numpy arrays get corrupted silently when server and environment differ in numpy."""
    for node in ast.walk(ast.parse(MODEL_FILE.read_text())):
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("as_numpy", "numpy", "from_numpy")
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) != "pb_utils.Tensor"
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names]
            modules += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert "numpy" not in modules


def test_served_file_is_part_of_the_code_digest():
    assert digest_code("stages.export_store")
    assert MODEL_FILE.is_file()
