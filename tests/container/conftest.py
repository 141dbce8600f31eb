from __future__ import annotations

from pathlib import Path

import pytest
from support.container.containers import CACHE, Built, Machine
from support.projects import TINY, Project

ONLY_IN_IMAGES = ("torch", "transformers", "datasets", "pyarrow", "pytriton")


@pytest.fixture(scope="session")
def machine() -> Machine:
    return Machine()


@pytest.fixture
def project(machine: Machine, request: pytest.FixtureRequest) -> Path:
    """The user's own copy of the repository, without images."""
    return machine.clone(request.node.name)


@pytest.fixture(scope="session")
def built(machine: Machine) -> Built:
    return machine.built()


@pytest.fixture(scope="session")
def outside() -> Path:
    """To be put on PYTHONPATH: with it, what only images bring can't be imported outside.

    So neither a stage nor a server runs bare.
    """
    folder = CACHE / "outside"
    for name in ONLY_IN_IMAGES:
        (folder / name).mkdir(parents=True, exist_ok=True)
        code = f"raise ImportError('{name} was imported outside of the images')"
        (folder / name / "__init__.py").write_text(code)
    return folder


@pytest.fixture(scope="session")
def made(
    machine: Machine, built: Built, outside: Path, tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """The tiny pipeline, run in images from its fetch stages to its report."""
    project = Project.clone(tmp_path_factory.mktemp("containers") / "project")
    (project.folder / "images").symlink_to(built.folder / "images")
    runtime = "runtime:\n"
    project.replace(TINY, runtime, runtime + "  containers: apptainer\n")
    with machine.shown(outside):
        project.snakemake()
    return project
