from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from support.own_architecture import own_architecture

from rlhf.errors import ConfigError, DataError, IntegrityError
from rlhf.models.load import load_token_scorer, load_tokenizer
from rlhf.models.publish import below, save_model
from rlhf.models.trust import TRUSTED, is_trusted
from rlhf.provenance.manifest import Manifest
from rlhf.serving.export import export
from rlhf.sources.base_models.materialize import materialize


@pytest.fixture
def own(tiny, tmp_path, monkeypatch):
    """A model's folder that brings code, and the file that appears when the code runs."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    ran = tmp_path / "it-ran"
    return own_architecture(tiny, tmp_path / "own", ran), ran


def fetch(folder, target, **options):
    return materialize({"path": str(folder)}, target, where="models.base", **options)


def write_manifest(folder, facts):
    artifact = folder.parent
    manifest = Manifest("fetch_model", artifact.name, {}, "", "", {}, facts=facts)
    manifest.write(artifact, [folder], 0.0)


def test_a_models_own_code_is_refused(own, tmp_path):
    folder, ran = own
    with pytest.raises(DataError, match="brings its own code") as caught:
        fetch(folder, tmp_path / "m/model")
    assert "set models.base.trust_remote_code: true" in caught.value.hint
    assert not ran.exists()
    assert not (tmp_path / "m/model").exists()


def test_code_that_transformers_does_not_need_is_left_out(own, tiny, tmp_path):
    """Many models of known architectures still name the code that they once needed."""
    folder, ran = own
    known = json.loads((tiny / "config.json").read_text())
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    (folder / "config.json").write_text(json.dumps(known | {"auto_map": auto_map}))
    facts = fetch(folder, tmp_path / "m/model")
    assert TRUSTED not in facts
    assert not ran.exists()
    assert "auto_map" not in (tmp_path / "m/model/config.json").read_text()
    assert not list((tmp_path / "m/model").glob("*.py"))


def test_code_of_a_trusted_model_runs_and_stays_with_it(own, tmp_path):
    folder, ran = own
    target = tmp_path / "m/model"
    facts = fetch(folder, target, trust_remote_code=True)
    assert ran.exists()
    assert facts[TRUSTED] is True
    assert facts["architecture"] == "OwnForCausalLM"
    assert (target / "modeling_own.py").read_text() == (folder / "modeling_own.py").read_text()
    write_manifest(target, facts)
    model = load_token_scorer(target)
    assert type(model.model).__name__ == "OwnForCausalLM"
    weights = below(model.named_parameters(), "model.")
    save_model(model, weights, load_tokenizer(target), tmp_path / "sft/model")  # as training does
    write_manifest(tmp_path / "sft/model", {TRUSTED: True})
    again = load_token_scorer(tmp_path / "sft/model")
    ids = torch.arange(5)[None]
    assert torch.equal(again.model(ids).logits, model.model(ids).logits)


def test_a_folder_without_such_a_manifest_is_not_trusted(own, tmp_path):
    """`rlhf chat` of a folder from elsewhere, say: transformers itself would ask, or run it."""
    folder, ran = own
    with pytest.raises(ValueError, match="custom code"):
        load_token_scorer(folder)
    assert not is_trusted(folder)
    write_manifest(folder, {})
    assert not is_trusted(folder)
    assert not ran.exists()


def test_the_identity_of_a_trusted_model_covers_its_code(own, tmp_path):
    folder, _ = own
    first = fetch(folder, tmp_path / "a", trust_remote_code=True)["source"]
    with (folder / "modeling_own.py").open("a") as stream:
        stream.write("# changed\n")
    assert fetch(folder, tmp_path / "b", trust_remote_code=True)["source"] != first


def test_code_of_another_repository_is_refused_even_then(tiny, tmp_path):
    ran = tmp_path / "it-ran"
    folder = own_architecture(tiny, tmp_path / "s", ran, module="acme/other--modeling_own")
    with pytest.raises(DataError, match="code of another repository: acme/other--"):
        fetch(folder, tmp_path / "m", trust_remote_code=True)
    assert not ran.exists()


def test_model_servers_run_no_models_own_code(own, tmp_path):
    folder, _ = own
    write_manifest(folder, {TRUSTED: True})
    with pytest.raises(IntegrityError, match="own code") as caught:
        export("reference", folder.parent, tmp_path / "store", tmp_path / "parity.json", {})
    assert "scoring: local" in caught.value.hint


# --- ways out of a folder ---------------------------------------------------------------------


@pytest.fixture
def copy(tiny, tmp_path):
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", "README.md"])
def test_a_link_out_of_a_folder_is_refused(copy, tmp_path, name):
    outside = tmp_path / "outside"
    outside.write_text("secret")
    (copy / name).unlink(missing_ok=True)
    (copy / name).symlink_to(outside)
    with pytest.raises(DataError, match=f"{name} is a link to {outside}"):
        fetch(copy, tmp_path / "m")


def test_a_link_within_a_folder_is_not(copy, tmp_path):
    (copy / "tokenizer.json").rename(copy / "real.json")
    (copy / "tokenizer.json").symlink_to("real.json")
    fetch(copy, tmp_path / "m")


def test_a_snapshot_of_the_hubs_cache_may_link_to_its_own_repository(copy, tmp_path):
    repository = tmp_path / "models--acme--tiny"
    snapshot = repository / "snapshots" / ("a" * 40)
    (repository / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in copy.iterdir():
        file.rename(repository / "blobs" / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    fetch(snapshot, tmp_path / "m")
    (snapshot / "config.json").unlink()
    shutil.copy(repository / "blobs/config.json", tmp_path / "another.json")
    (snapshot / "config.json").symlink_to("../../../another.json")
    with pytest.raises(DataError, match="outside of the model"):
        fetch(snapshot, tmp_path / "n")


@pytest.mark.parametrize("shard", ["../outside.safetensors", "/etc/passwd", "sub/x.safetensors"])
def test_an_index_that_names_files_elsewhere_is_refused(copy, tmp_path, shard):
    index = {"weight_map": {"a": "model.safetensors", "b": shard}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=f"index.json names {shard}"):
        fetch(copy, tmp_path / "m")


@pytest.mark.parametrize("pattern", ["../*/*.gguf", "/models/*.gguf"])
def test_a_pattern_that_leads_out_of_a_package_is_refused(pattern, tmp_path):
    source = {"package": "torch", "file": pattern}
    with pytest.raises(ConfigError, match="leads out of the package"):
        materialize(source, tmp_path / "m")
