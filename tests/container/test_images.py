"""Images built from the real definitions, by a real Apptainer, as an ordinary user."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support.container.containers import RLHF, Built, Machine

from rlhf.launch.images import USUAL


def inside(machine: Machine, built: Built, kind: str, *command: str) -> str:
    done = machine.run(
        [machine.runtime, "exec", "--cleanenv", built.images[kind], *command], built.folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_built_images_match_and_are_not_built_again(machine, built):
    checked = machine.rlhf(built.folder, "images", "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    for kind in USUAL:
        assert f"{kind}: images/{built.images[kind].name} matches its definition" in checked.stdout
    again = machine.rlhf(built.folder, "images", "build", "--wheels", str(machine.wheels))
    assert again.returncode == 0
    assert again.stdout.splitlines() == [
        f"{kind}: images/{built.images[kind].name} is there" for kind in USUAL
    ]


def test_labels_say_what_an_image_was_made_from(machine, built):
    for kind in USUAL:
        shown = machine.run(
            [machine.runtime, "inspect", "--json", "--labels", built.images[kind]], built.folder
        )
        labels = json.loads(shown.stdout)["data"]["attributes"]["labels"]
        assert labels["rlhf.image"] == built.images[kind].stem
        assert labels["org.opencontainers.image.title"] == f"rlhf-{kind}"
        assert labels["org.opencontainers.image.version"] == "0.1.0"
        assert labels["org.opencontainers.image.base.name"] == str(machine.base)


def test_an_image_holds_dependencies_and_not_the_package(machine, built):
    code = "import importlib.util as u, site; print(u.find_spec('rlhf'), site.ENABLE_USER_SITE)"
    for kind in USUAL:
        assert inside(machine, built, kind, "python", "-c", code) == "None False\n"
    versions = "import torch, transformers; print(torch.__version__, transformers.__version__)"
    assert inside(machine, built, "serve", "python", "-c", versions) == "2.13.0+cpu 5.23.0\n"


def test_an_image_passes_its_own_tests(machine, built):
    for kind in USUAL:
        done = machine.run([machine.runtime, "test", built.images[kind]], built.folder)
        assert done.returncode == 0, done.stderr


def test_a_changed_lock_makes_one_image_stale(machine, built, project):
    (project / "images").symlink_to(built.folder / "images")
    lock = project / "envs/locks/serve.txt"
    lock.write_text(lock.read_text() + "# changed\n")
    checked = machine.rlhf(project, "images", "check")
    assert checked.returncode == 1
    assert "train: images/train-" in checked.stdout
    assert "serve: The image of kind serve is stale." in checked.stdout
    assert "to do:    run `rlhf images build`" in checked.stdout


def test_an_image_under_a_wrong_name_or_cut_off_is_found(machine, built, project):
    names = {kind: built.images[kind].name for kind in USUAL}
    folder = project / "images"
    machine.run(["mkdir", folder], project)
    (folder / "bases.json").write_bytes((built.folder / "images/bases.json").read_bytes())
    (folder / names["train"]).symlink_to(built.images["serve"])
    with built.images["serve"].open("rb") as whole:
        (folder / names["serve"]).write_bytes(whole.read(10_000))
    checked = machine.rlhf(project, "images", "check")
    assert checked.returncode == 1
    assert "This is not the train image that its name says." in checked.stdout
    assert "serve: The image can't be read" in checked.stdout


@pytest.mark.parametrize("fault", ["base", "lock"])
def test_a_build_that_fails_shows_the_log_and_leaves_nothing(machine, project, fault):
    base = machine.base
    if fault == "base":
        base = project / "broken.sif"
        base.write_text("not an image")
        expected = "image format not recognized"
    else:
        lock = project / "envs/locks/train.txt"
        lock.write_text(lock.read_text().replace("--hash=sha256:", "--hash=sha256:0"))
        expected = "THESE PACKAGES DO NOT MATCH THE HASHES"
    done = machine.build(project, "train", "--base", str(base))
    assert done.returncode == 2
    assert "The train image could not be built" in done.stderr
    assert expected in done.stderr
    assert "logs/images/train.log" in done.stderr
    assert str(base) in (project / "logs/images/train.log").read_text()
    left = [path.name for path in (project / "images").iterdir()]
    assert left == ["bases.json"]


def test_root_is_refused(machine, project):
    done = subprocess.run(
        [sys.executable, "-c", RLHF, "images", "build"],
        cwd=project,
        env=machine.environment(project),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 2
    assert "Images are not built by root." in done.stderr
    assert not (project / "images").exists()
