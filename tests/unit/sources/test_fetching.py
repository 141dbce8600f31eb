"""What needs a network, what goes without it, and what is believed of a download."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.hub_stand_in import serve

from rlhf.cli import main
from rlhf.core.files import read_json
from rlhf.data.rows_file import read_all
from rlhf.errors import IntegrityError
from rlhf.provenance.code import PACKAGE_ROOT, closure
from rlhf.sources.addresses import download, read_addresses
from rlhf.sources.locks import VARIABLE, Lock

FETCHING = ("sources.hub", "sources.addresses", "sources.base_models.materialize")


def test_only_the_fetch_stages_download():
    stages = [path.stem for path in (PACKAGE_ROOT / "stages").glob("[a-z]*.py")]
    assert {one for one in stages if set(FETCHING) & set(closure(f"stages.{one}"))} == {
        "fetch_data",
        "fetch_model",
    }


@pytest.mark.parametrize("kind", ["hub", "url"])
def test_downloads_are_kept_in_hf_home_and_come_from_there_alone(set_hub, tmp_path, kind):
    """`HF_HUB_OFFLINE` without a download before it is an error; after it nobody is asked."""
    source = {"hub": set_hub.repo, "revision": set_hub.revision}
    address = f"{set_hub.url}/files/data/train-0.jsonl.gz"
    config = {"source": source, "files": ["data/train-*"], "format": "qa", "options": {}}
    if kind == "url":
        config = {"source": {"url": [address]}, "format": "qa", "options": {}}
    config |= {"validation_fraction": 0.0, "split_salt": ""}

    def fetch(out, **variables):
        outputs = {"rows": "rows", "statistics": "statistics.json", "manifest": "manifest.json"}
        line = ["--name", "mine", "--config", json.dumps(config)]
        for role, name in outputs.items():
            line += ["--output", role, str(tmp_path / out / name)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        environment |= {"HF_ENDPOINT": set_hub.url, "HF_HOME": str(tmp_path / "kept"), **variables}
        command = [sys.executable, "-m", "rlhf.stages.fetch_data", *line]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    refused = fetch("a", HF_HUB_OFFLINE="1")
    assert refused.returncode != 0
    assert "HF_HUB_OFFLINE" in refused.stderr
    assert not set_hub.requests
    done = fetch("b")
    assert done.returncode == 0, done.stderr
    assert any(one.name.startswith("train-0") for one in (tmp_path / "kept").rglob("*"))
    set_hub.requests.clear()
    digest = hashlib.sha256((set_hub.folder / "data/train-0.jsonl.gz").read_bytes()).hexdigest()
    if kind == "url":
        refused = fetch("c", HF_HUB_OFFLINE="1")
        assert "HF_HUB_OFFLINE" in refused.stderr
        config["source"] = {"url": [f"{address}#sha256={digest}"]}
    again = fetch("d", HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    assert not set_hub.requests


def test_without_a_digest_the_length_alone_is_known(tmp_path, own_cache, slept):
    """Other bytes are taken, if they are as many."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "rows.jsonl").write_bytes(b"abc" * 100)
    with serve(folder) as server:
        address = f"{server.url}/files/rows.jsonl"
        server.wrong = {"rows.jsonl": 1}
        made = download(read_addresses(address), "datasets.mine")
        assert (made.folder / "rows.jsonl").read_bytes() == bytes(255 - one for one in b"abc" * 100)


def test_a_digest_in_the_address_is_compared(fetch_set, set_hub, tmp_path):
    name = "data/train-0.jsonl.gz"
    right = hashlib.sha256((set_hub.folder / name).read_bytes()).hexdigest()
    address = f"{set_hub.url}/files/{name}#sha256="
    with pytest.raises(IntegrityError, match=name.rpartition("/")[2]) as caught:
        fetch_set(source={"url": address + "0" * 64}, files=None)
    assert f"{'0' * 64}, found {right}" in str(caught.value)
    assert not (tmp_path / "out").exists()
    out = fetch_set(source={"url": address + right}, files=None)
    assert len(read_all(out / "rows").conversations) == 50


def test_what_is_not_in_the_lock_is_fetched_as_the_configuration_says(
    fetch_set, set_hub, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    set_hub.branches = {"main"}
    source = {"hub": set_hub.repo, "revision": "main"}
    mine = {"source": source, "files": ["data/train-*.jsonl.gz"], "format": "qa"}
    page = {"source": {"url": f"{set_hub.url}/files/README.md"}, "format": "text"}
    Path("config").mkdir()
    values = {"models": {}, "datasets": {"mine": mine, "page": page}}
    Path("config/config.yaml").write_text(yaml.safe_dump(values))
    assert main(["lock", "page"]) == 0
    lock = Lock(["config/config.yaml"])
    assert lock.digest("datasets", "page")
    assert lock.digest("datasets", "mine") is None
    set_hub.revision = "b" * 40
    monkeypatch.setenv(VARIABLE, "config/config.yaml")
    out = fetch_set(source=source)
    assert len(read_all(out / "rows").conversations) == 100
    assert read_json(out / "manifest.json")["facts"]["source"]["commit"] == "b" * 40


@pytest.mark.parametrize("status", [408, 500, 502, 504])
def test_a_server_that_is_away_is_asked_again_each_time_later(
    fetch_set, set_hub, own_cache, slept, status
):
    set_hub.away, set_hub.busy = status, 3
    address = f"{set_hub.url}/files/data/train-0.jsonl.gz"
    out = fetch_set(source={"url": address}, files=None)
    assert len(read_all(out / "rows").conversations) == 50
    assert len(slept) == 3
    assert slept == sorted(set(slept))
    slept.clear()
    set_hub.busy = 3
    assert len(read_all(fetch_set() / "rows").conversations) == 100
    assert slept == sorted(set(slept))
    assert slept
