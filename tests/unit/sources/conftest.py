from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import pytest
from support.hub_stand_in import serve


@pytest.fixture
def slept(monkeypatch):
    """Seconds that were to be waited for, each time; nobody waits."""
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """The hub's client with a cache of its own, no token and no settings."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def set_hub(tmp_path, monkeypatch, own_cache, slept):
    """A hub with a dataset of three packed files."""
    folder = tmp_path / "repository"
    (folder / "data").mkdir(parents=True)
    for name in ("train-0", "train-1", "test-0"):
        lines = [json.dumps({"question": f"{name} {i}?", "answer": str(i)}) for i in range(50)]
        packed = gzip.compress("\n".join(lines).encode(), mtime=0)
        (folder / "data" / f"{name}.jsonl.gz").write_bytes(packed)
    (folder / "README.md").write_text("# Set")
    with serve(folder) as hub:
        hub.repo = "acme/set"
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def fetch_set(set_hub, tmp_path):
    """Runs the stage on that dataset; returns the folder of what it made."""
    from rlhf.stages import fetch_data
    from rlhf.stages.stage import parse

    def fetch(**changes) -> Path:
        out = tmp_path / "out"
        config = {
            "source": {"hub": set_hub.repo, "revision": set_hub.revision},
            "files": ["data/train-*.jsonl.gz"],
            "format": "qa",
            "options": {},
            "validation_fraction": 0.2,
            "split_salt": "",
        } | changes
        config = {key: value for key, value in config.items() if value is not None}
        files = {"rows": "rows", "statistics": "statistics.json", "manifest": "manifest.json"}
        line = ["--name", "mine", "--config", json.dumps(config)]
        for role, name in files.items():
            line += ["--output", role, str(out / name)]
        fetch_data.run(parse(line)[0])
        return out

    return fetch
