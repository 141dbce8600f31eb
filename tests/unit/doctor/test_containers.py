from __future__ import annotations

import os

import pytest
from support import fakes

from rlhf.doctor.containers import check_containers
from rlhf.launch import images


@pytest.fixture
def fake_runtime(tmp_path, monkeypatch):
    """A fake Apptainer, and a function that makes images that it runs as they say."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.pathsep.join([str(fakes.CONTAINER), os.environ["PATH"]]))

    def make(kind: str, script: str) -> None:
        path = images.image_path(kind)
        path.parent.mkdir(exist_ok=True)
        path.write_text(script + "\n")

    return make


def look(configured=True, gpus=0):
    return {check.name: check for check in check_containers(configured, gpus)}


@pytest.mark.parametrize("configured", [True, False])
def test_no_runtime(tmp_path, monkeypatch, configured):
    monkeypatch.setenv("PATH", str(tmp_path))
    check = look(configured)["container runtime"]
    assert check.verdict == ("failed" if configured else "ok")
    assert ("Apptainer" in check.to_do) == configured


@pytest.mark.parametrize("configured", [True, False])
def test_missing_images(fake_runtime, configured):
    found = look(configured)
    assert found["container runtime"].found == "apptainer version 0.0-fake"
    for kind in images.USUAL:
        check = found[f"{kind} image"]
        assert check.verdict == ("failed" if configured else "ok")
        assert ("rlhf images build" in check.to_do) == configured


def test_stale_images(fake_runtime):
    images.FOLDER.mkdir()
    (images.FOLDER / "train-000000000000.sif").touch()
    assert "stale" in look()["train image"].found


def test_images_that_run(fake_runtime):
    for kind in images.KINDS:
        fake_runtime(kind, "echo runs")
    found = look()
    assert {check.verdict for check in found.values()} == {"ok"}
    assert found["train image"].found == f"{images.image_path('train')} runs"


def test_an_image_that_does_not_run(fake_runtime):
    fake_runtime("train", "echo FATAL: no user namespaces >&2; exit 255")
    check = look()["train image"]
    assert check.verdict == "failed"
    assert "FATAL: no user namespaces" in check.found
    assert check.to_do.startswith("run it by hand: ")
    assert " apptainer exec --cleanenv " in check.to_do


@pytest.mark.parametrize(("seen", "verdict"), [(2, "ok"), (1, "failed")])
def test_gpus_in_an_image(fake_runtime, seen, verdict):
    fake_runtime("train", "\n".join(f"echo GPU {i}: Fake H200" for i in range(seen)))
    assert look(gpus=2)["train image"].verdict == verdict
