from __future__ import annotations

import errno
import shutil
import time

import pytest
from support.hub_stand_in import serve

from rlhf.core.digest import describe_tree
from rlhf.errors import DataError
from rlhf.sources.base_models.materialize import materialize


@pytest.fixture
def hub(tiny, tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    folder = tmp_path / "repository"
    shutil.copytree(tiny, folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling_tiny.py").write_text("raise SystemExit('it ran')")
    (folder / "onnx").mkdir()
    (folder / "onnx/model.safetensors").write_bytes(b"for another runtime")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)  # what is kept of a cut file
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serve(folder) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def fetch(server, target, **changes):
    source = {"hub": server.repo, "revision": server.revision} | changes
    return materialize(source, target, where="models.base")


def test_download_is_the_same_byte_for_byte(hub, tiny, tmp_path):
    facts = fetch(hub, tmp_path / "m")
    assert describe_tree(tmp_path / "m") == describe_tree(tiny)
    assert facts["source"] == {"kind": "hub", "repo": hub.repo, "revision": hub.revision}
    fetched = {path for command, path in hub.requests if command == "GET" and "resolve" in path}
    assert not [path for path in fetched if path.endswith((".bin", ".py")) or "onnx" in path]


def test_second_download_comes_from_the_cache(hub, tmp_path):
    fetch(hub, tmp_path / "m")
    hub.requests.clear()
    fetch(hub, tmp_path / "n")
    assert not [path for command, path in hub.requests if command == "GET" and "resolve" in path]


def test_cut_connection_is_resumed(hub, tiny, tmp_path):
    hub.cut = {"model.safetensors": 3}
    fetch(hub, tmp_path / "m")
    assert describe_tree(tmp_path / "m") == describe_tree(tiny)
    assert len(hub.ranges) == 3
    assert all(one.startswith("model.safetensors:") for one in hub.ranges)


def test_download_goes_on_where_an_earlier_run_was_cut(hub, tiny, tmp_path):
    hub.cut = {"model.safetensors": 10**6}
    hub.lost = {"tokenizer.json"}  # the first run ends in an error
    with pytest.raises(DataError):
        fetch(hub, tmp_path / "m")
    hub.cut, hub.lost = {}, set()
    fetch(hub, tmp_path / "m")
    assert describe_tree(tmp_path / "m") == describe_tree(tiny)
    assert hub.ranges


def test_busy_server_is_tried_again(hub, tiny, tmp_path):
    hub.busy = 12
    fetch(hub, tmp_path / "m")
    assert describe_tree(tmp_path / "m") == describe_tree(tiny)


def test_server_that_stays_busy(hub, tmp_path):
    hub.busy = 10**6
    with pytest.raises(DataError, match=r"HTTP 503.*5 attempts") as caught:
        fetch(hub, tmp_path / "m")
    assert hub.repo in caught.value.where
    assert hub.revision in caught.value.where
    assert "kept" in caught.value.hint


def test_no_server(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match="download failed") as caught:
        fetch(hub, tmp_path / "m")
    assert "HF_ENDPOINT" in caught.value.hint


def test_token_is_sent(hub, tmp_path, monkeypatch):
    hub.token = "right"
    monkeypatch.setenv("HF_TOKEN", "right")
    fetch(hub, tmp_path / "m")


@pytest.mark.parametrize("token", [None, "wrong"])
def test_wrong_token(hub, tmp_path, monkeypatch, token):
    hub.token = "right"
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(DataError, match="refused access") as caught:
        fetch(hub, tmp_path / "m")
    assert "HF_TOKEN" in caught.value.hint
    assert "wrong" not in str(caught.value)


def test_gated_repository(hub, tmp_path):
    hub.gated = True
    with pytest.raises(DataError, match="gated") as caught:
        fetch(hub, tmp_path / "m")
    assert "accept" in caught.value.hint


def test_unknown_repository_and_commit(hub, tmp_path):
    with pytest.raises(DataError, match="no such repository"):
        fetch(hub, tmp_path / "m", hub="acme/huge")
    with pytest.raises(DataError, match="no such commit"):
        fetch(hub, tmp_path / "m", revision="b" * 40)
    with pytest.raises(DataError, match="no repository name"):
        fetch(hub, tmp_path / "m", hub="acme/x/y")


def test_full_disk_is_no_network_problem(hub, tmp_path, monkeypatch):
    import huggingface_hub

    calls = []

    def full(*_args, **_keys):
        calls.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(DataError, match="No space left") as caught:
        fetch(hub, tmp_path / "m")
    assert "HF_HOME" in caught.value.hint
    assert len(calls) == 1


def test_listed_file_that_is_missing(hub, tmp_path):
    hub.lost = {"tokenizer.json"}
    with pytest.raises(DataError, match=r"missing: tokenizer\.json"):
        fetch(hub, tmp_path / "m")


def test_repository_without_safetensors(hub, tmp_path):
    (hub.folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"pytorch_model\.bin") as caught:
        fetch(hub, tmp_path / "m")
    assert hub.repo in caught.value.where


def test_offline(hub, tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="HF_HUB_OFFLINE") as caught:
        fetch(hub, tmp_path / "m")
    assert f"hf download {hub.repo} --revision {hub.revision}" in caught.value.hint
    assert not hub.requests
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    fetch(hub, tmp_path / "m")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    fetch(hub, tmp_path / "n")  # from the cache
    assert not hub.requests
