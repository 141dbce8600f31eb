"""The tiny pipeline inside the images; PPO with its model servers in the serve image."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from containers import Built, Machine
from projects import TINY, Project

ONLY_IN_IMAGES = ("torch", "transformers", "datasets", "pyarrow", "pytriton")


def manifest(project: Project, artifact: str) -> dict:
    return json.loads((project.folder / "results" / artifact / "manifest.json").read_text())


@pytest.fixture(scope="module")
def pipeline(
    machine: Machine, built: Built, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    """The tiny pipeline, run in images from its fetch stages to its report.

    Outside, what the images bring can't be imported: neither a stage nor a server runs bare.
    """
    folder = tmp_path_factory.mktemp("containers")
    for name in ONLY_IN_IMAGES:
        (folder / "outside" / name).mkdir(parents=True)
        code = f"raise ImportError('{name} was imported outside of the images')"
        (folder / "outside" / name / "__init__.py").write_text(code)
    project = Project.clone(folder / "project")
    (project.folder / "images").symlink_to(built.folder / "images")
    runtime = "runtime:\n"
    project.replace(TINY, runtime, runtime + "  containers: apptainer\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(machine.runtime.parent), prepend=os.pathsep)
        patch.setenv("PYTHONPATH", str(folder / "outside"))
        patch.setenv("APPTAINER_NO_PRIVS", "1")  # root may lack capabilities that it would hand on
        project.snakemake()
        yield project


def test_every_stage_ran_in_its_image(pipeline, built):
    train, serve = (f"image:{built.images[kind].stem}" for kind in ("train", "serve"))
    kinds = {
        "models/tiny": train,
        "datasets/demo": train,
        "tokenized/sft/tiny/demo": train,
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


def test_a_stale_image_is_refused_before_anything_runs(pipeline, tmp_path):
    project = pipeline.copy(tmp_path / "project")
    definition = project.folder / "containers/serve.def"
    definition.write_text(definition.read_text() + "# changed\n")
    done = project.snakemake(check=False)
    assert done.returncode != 0
    assert "The image of kind serve is stale." in done.stderr
    assert "rlhf images build" in done.stderr
