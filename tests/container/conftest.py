from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))  # projects

from containers import Machine


@pytest.fixture(scope="session")
def machine() -> Machine:
    return Machine()


@pytest.fixture
def project(machine: Machine, request: pytest.FixtureRequest) -> Path:
    """The user's own copy of the repository, without images."""
    return machine.clone(request.node.name)


@pytest.fixture(scope="session")
def built(machine: Machine) -> Path:
    """A project with both images, built from the real definitions.

    Images are kept from run to run; their names say what they were made from.
    """
    kept = machine.home / "images"
    project = machine.clone("built")
    (project / "images").symlink_to(kept)
    machine.run(["mkdir", "-p", kept], project)
    done = machine.build(project)
    print(done.stdout)  # how long it took
    assert done.returncode == 0, done.stdout + done.stderr
    return project
