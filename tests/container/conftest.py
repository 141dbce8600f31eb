from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))  # projects

from containers import Built, Machine


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
