"""Locks in the workflow: planned with, obeyed, and what a change of one runs again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from support.projects import TINY, Project

ROWS = "results/datasets/{}/manifest.json"


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with two datasets at addresses, locked and fetched."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    project = Project.clone(tmp_path / "project")
    config = project.folder / TINY
    values = yaml.safe_load(config.read_text())
    for name in ("one", "two"):
        copy = tmp_path / f"{name}.jsonl"
        shutil.copy(project.folder / "demo/trees.jsonl", copy)
        source = {"url": copy.as_uri()}
        values["datasets"][name] = {"source": source, "format": "oasst"}
    values["sft"]["chat"]["data"] = {"one": {}, "two": {}}
    config.write_text(yaml.safe_dump(values, sort_keys=False))
    done = project.rlhf("lock", "--configfile", TINY)
    assert done.returncode == 0, done.stderr
    project.snakemake(ROWS.format("one"), ROWS.format("two"))
    return project


@pytest.mark.slow
def test_a_changed_entry_runs_its_fetch_again_and_what_is_from_another_file_is_refused(
    locked: Project, tmp_path: Path
) -> None:
    both = [ROWS.format("one"), ROWS.format("two")]
    assert locked.would_run(*both) == set()
    path = locked.folder / TINY.replace(".yaml", ".lock.json")
    value = json.loads(path.read_text())
    (file,) = value["datasets"]["two"]["files"].values()
    file["sha256"] = "0" * 64
    path.write_text(json.dumps(value))
    assert locked.would_run(ROWS.format("one")) == set()
    assert locked.would_run(ROWS.format("two")) == {"fetch_data"}
    explained = locked.rlhf("explain", "--configfile", TINY, "--", *both)
    assert "fetch_data two: datasets.two.lock" in explained.stdout

    done = locked.snakemake(ROWS.format("two"), check=False)
    assert done.returncode != 0
    text = done.stdout + done.stderr
    assert "The downloaded file has another digest: two.jsonl" in text
    assert f"sha256 {'0' * 64}, found " in text
