"""The tiny pipeline inside the images; PPO with its model servers in the serve image."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.container.containers import Machine
from support.projects import TINY, Project


def manifest(project: Project, artifact: str) -> dict:
    return json.loads((project.folder / "results" / artifact / "manifest.json").read_text())


@pytest.fixture(scope="module")
def pipeline(machine: Machine, outside: Path, made: Project) -> Iterator[Project]:
    with machine.shown(outside):
        yield made


def test_every_stage_ran_in_its_image(pipeline, built):
    train, serve = (f"image:{built.images[kind].stem}" for kind in ("train", "serve"))
    kinds = {
        "models/tiny": train,
        "datasets/demo": train,
        "tokenized/conversation/tiny/demo": train,
        "sft/chat": train,
        "reward/helpful": train,
        "store/reward/helpful": serve,
        "store/reference/chat": serve,
        "ppo/final": f"{train}+{built.images['serve'].stem}",
        "evaluation/final": train,
        "report/final": train,
    }
    assert {one: manifest(pipeline, one)["image"] for one in kinds} == kinds
    servers = pipeline.folder.glob("logs/train_ppo/final.*-server.log")
    assert sorted(path.name.split(".")[1] for path in servers) == [
        "reference-server",
        "reward-server",
    ]


def test_nothing_is_left_to_run_and_going_bare_is_a_change_of_every_stage(pipeline):
    assert pipeline.would_run() == set()
    pipeline.replace(TINY, "containers: apptainer", "containers: none")
    try:
        assert "train_ppo" in pipeline.would_run()
    finally:
        pipeline.replace(TINY, "containers: none", "containers: apptainer")


def test_proxies_and_certificates_reach_a_stage(pipeline, built, tmp_path, monkeypatch):
    project = pipeline.copy(tmp_path / "project")
    code = "import os; e = os.environ; print(e['HTTPS_PROXY'], e['no_proxy'], "
    code += "open(e['SSL_CERT_FILE']).read())"
    (project.folder / "look.py").write_text(code)
    (tmp_path / "ca.pem").write_text("certificates")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy:3128")
    monkeypatch.setenv("no_proxy", "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    image = f"--image={built.images['train']}"
    done = project.rlhf("launch", image, "--log=logs/look.log", "--", "look")
    assert done.stdout == "http://me:secret@proxy:3128 localhost certificates\n", done.stderr


def test_a_stale_image_is_refused_before_anything_runs(pipeline, tmp_path):
    project = pipeline.copy(tmp_path / "project")
    definition = project.folder / "containers/serve.def"
    definition.write_text(definition.read_text() + "# changed\n")
    done = project.snakemake(check=False)
    assert done.returncode != 0
    assert "The image of kind serve is stale." in done.stderr
    assert "rlhf images build" in done.stderr
