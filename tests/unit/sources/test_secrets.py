"""Tokens come from the environment, and are found in nothing that a stage writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from support.hub_stand_in import serve

SECRETS = {
    name: f"secret-{name.lower()}-0123456789"
    for name in ("HF_TOKEN", "WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY",
                 "PROXY_PASSWORD")
}  # fmt: skip


@pytest.fixture
def hub(tiny, tmp_path_factory):
    """A private repository: only the right token opens it."""
    folder = tmp_path_factory.mktemp("hub") / "repository"
    shutil.copytree(tiny, folder)
    with serve(folder) as hub:
        hub.token = SECRETS["HF_TOKEN"]
        yield hub


def fetch(hub, folder, launcher, **variables):
    """The stage, with all that it may write below ``folder``."""
    config = {"source": {"hub": hub.repo, "revision": hub.revision}, "template": "chatml"}
    launch = [
        *(sys.executable, "-m", "rlhf.launch", "--state", str(folder / "state/fetch_model/base")),
        *("--log", str(folder / "logs/base.log"), "--"),
    ]
    stage = [
        *("rlhf.stages.fetch_model", "--name", "base", "--config", json.dumps(config)),
        *("--output", "model", str(folder / "results/model")),
        *("--output", "manifest", str(folder / "results/manifest.json")),
        *("--log", str(folder / "logs/base.log"), "--debug"),
    ]
    (folder / "tmp").mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith(("SLURM_", "HF_"))}  # fmt: skip
    environment |= SECRETS | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "hf"),
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
    }
    return subprocess.run(
        [*launch, *stage] if launcher else [sys.executable, "-m", *stage],
        env=environment | variables, capture_output=True, text=True,
    )  # fmt: skip


def leaks(folder, *texts):
    """Files below a folder, and texts, that hold a secret."""
    files = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    pieces = files | {f"text {i}": text.encode() for i, text in enumerate(texts)}
    assert files
    return [
        (name, secret)
        for name, content in pieces.items()
        for secret, value in SECRETS.items()
        if value.encode() in content
    ]


@pytest.mark.parametrize("launcher", [False, True])
def test_a_stage_that_uses_a_token_writes_it_nowhere(hub, tmp_path, launcher):
    done = fetch(hub, tmp_path, launcher)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results/manifest.json").is_file()
    assert (tmp_path / "state").exists() == launcher
    assert leaks(tmp_path, done.stdout, done.stderr) == []


def test_a_stage_that_fails_with_a_traceback_writes_it_nowhere(hub, tmp_path):
    """Refused by the hub, once with a token that is none of its own."""
    hub.token = "another"
    done = fetch(hub, tmp_path, launcher=False)
    assert done.returncode == 2
    assert "refused access" in done.stderr
    assert "Traceback" in done.stderr
    assert leaks(tmp_path, done.stdout, done.stderr) == []


@pytest.mark.parametrize("refused", [False, True])
def test_behind_a_proxy_its_password_is_written_nowhere(hub, tmp_path, refused):
    if refused:
        hub.token = "another"
    proxy = hub.url.replace("//", f"//me:{SECRETS['PROXY_PASSWORD']}@")
    variables = dict.fromkeys(("HTTP_PROXY", "http_proxy"), proxy)
    variables |= dict.fromkeys(("NO_PROXY", "no_proxy"), "")
    done = fetch(hub, tmp_path, launcher=True, HF_ENDPOINT="http://hub.invalid", **variables)
    assert done.returncode == (2 if refused else 0), done.stderr
    assert leaks(tmp_path, done.stdout, done.stderr) == []


def test_a_hub_that_lists_files_elsewhere_puts_none_there(hub, tmp_path):
    """Names with ../ in a repository's listing."""
    (hub.folder.parent / "evil.json").write_text("{}")
    hub.extra = ["../evil.json", "../../../../../evil.json"]
    done = fetch(hub, tmp_path, launcher=False)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("evil.json"))
    assert not any("evil" in path for _, path in hub.requests)
