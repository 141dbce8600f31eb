from __future__ import annotations

from pathlib import Path

import pytest
from support.once import once
from support.projects import Project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny pipeline, run to its end once; copy it, don't change it."""
    return Project(once(tmp_path_factory, "finished", lambda at: Project.clone(at).snakemake()))


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A finished project of one's own."""
    return finished.copy(tmp_path / "project")
