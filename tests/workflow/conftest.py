from __future__ import annotations

from pathlib import Path

import pytest
from support.projects import Project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny pipeline, run to its end once; copy it, don't change it."""
    project = Project.clone(tmp_path_factory.mktemp("project") / "finished")
    project.snakemake()
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A finished project of one's own."""
    return finished.copy(tmp_path / "project")
