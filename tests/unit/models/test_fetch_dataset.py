"""Datasets from the hub, through the stage."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import pytest
from hub_stand_in import serve

from rlhf.data.rows import Rows
from rlhf.errors import DataError
from rlhf.runtime.files import read_json
from rlhf.stages import fetch_data
from rlhf.stages.stage import parse


@pytest.fixture
def hub(tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    folder = tmp_path / "repository"
    (folder / "data").mkdir(parents=True)
    for name in ("train-0", "train-1", "test-0"):
        lines = [json.dumps({"question": f"{name} {i}?", "answer": str(i)}) for i in range(50)]
        packed = gzip.compress("\n".join(lines).encode(), mtime=0)
        (folder / "data" / f"{name}.jsonl.gz").write_bytes(packed)
    (folder / "README.md").write_text("# Set")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serve(folder) as hub:
        hub.repo = "acme/set"
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def fetch(hub, tmp_path):
    def fetch(**changes) -> Path:
        out = tmp_path / "out"
        config = {
            "source": {"hub": hub.repo, "revision": hub.revision},
            "files": ["data/train-*.jsonl.gz"],
            "format": "qa",
            "options": {},
            "validation_fraction": 0.2,
            "split_salt": "",
        } | changes
        files = {"rows": "rows", "statistics": "statistics.json", "manifest": "manifest.json"}
        line = ["--name", "mine", "--config", json.dumps(config)]
        for role, name in files.items():
            line += ["--output", f"{role}={out / name}"]
        fetch_data.run(parse(line)[0])
        return out

    return fetch


def test_chosen_files_are_downloaded_and_read(fetch, hub):
    out = fetch()
    rows = Rows.read(out / "rows")
    ids = {f"data/train-{file}.jsonl.gz:{line}" for file in (0, 1) for line in range(1, 51)}
    assert {one.id for one in rows.conversations} == ids
    source = read_json(out / "manifest.json")["facts"]["source"]
    assert source["hub"] == "acme/set"
    assert source["commit"] == hub.revision
    assert sorted(source["files"]) == ["data/train-0.jsonl.gz", "data/train-1.jsonl.gz"]
    fetched = {path for command, path in hub.requests if command == "GET" and "/resolve/" in path}
    assert len(fetched) == 2


def test_cut_and_busy_server(fetch, hub):
    hub.busy, hub.cut = 3, {"data/train-0.jsonl.gz": 2}
    assert len(Rows.read(fetch() / "rows").conversations) == 100


@pytest.mark.parametrize(
    ("fault", "changes", "words"),
    [
        ({}, {"files": ["train/*.parquet"]}, ["matches 'train/*.parquet'", "datasets.mine"]),
        ({}, {"files": ["data/*", "x/*"]}, ["matches 'x/*'", "data/test-0.jsonl.gz"]),
        (
            {"token": "right"},
            {},
            ["refused access", "datasets.mine.source.hub: acme/set", "HF_TOKEN"],
        ),
        ({"gated": True}, {}, ["gated", "accept"]),
        ({"busy": 10**6}, {}, ["HTTP 503", "5 attempts", "--repo-type dataset"]),
        ({}, {"source": {"url": "http://x/y.jsonl"}}, ["datasets.mine.source.url", "`path`"]),
    ],
)
def test_refusals(fetch, hub, tmp_path, fault, changes, words):
    for key, value in fault.items():
        setattr(hub, key, value)
    with pytest.raises(DataError) as error:
        fetch(**changes)
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "out" / "manifest.json").exists()
