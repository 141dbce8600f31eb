"""The tiny pipeline inside the images, in jobs of a real SLURM that an ordinary user submits."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support.cluster.hosts import SYSTEM_PATH
from support.cluster.runs import ClusterProject, Topology, tiny_pipeline
from support.cluster.slurm import Cluster
from support.container.containers import APPTAINER, Built, Machine
from support.projects import Project


class ProjectInImages(ClusterProject):
    """A user's project whose stages run in images; Apptainer is on the user's PATH."""

    def environment(self) -> dict[str, str]:
        path = [str(APPTAINER), str(Path(sys.prefix, "bin")), SYSTEM_PATH]
        return super().environment() | {"PATH": os.pathsep.join(path)}


@pytest.fixture(scope="module")
def submitted(
    machine: Machine, built: Built, outside: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClusterProject]:
    """The tiny pipeline, run by ``snakemake --profile slurm`` on a login host."""
    with machine.shown(outside):
        cluster = Cluster(tmp_path_factory.mktemp("cluster"))
        try:
            cluster.up()
            project = ProjectInImages.clone_for(cluster, "project")
            (project.folder / "images").symlink_to(built.folder / "images")
            values = tiny_pipeline(Topology())
            values["runtime"]["containers"] = "apptainer"
            (project.folder / project.config).write_text(yaml.safe_dump(values))
            print(project.run_command(*project.snakemake_command(), seconds=3000))
            yield project
        finally:
            cluster.down()


def test_jobs_in_images_make_the_same_bytes_as_images_without_slurm(
    submitted: ClusterProject, made: Project
) -> None:
    found, expected = submitted.results(), made.results()
    assert found.keys() == expected.keys()
    differ = [name for name in found if found[name] != expected[name]]
    assert not differ


def test_ppo_was_a_job_with_its_servers_in_the_serve_image(
    submitted: ClusterProject, built: Built
) -> None:
    (log,) = submitted.folder.glob("logs/slurm/rule_train_ppo/final/*.log")
    for kind in ("reward", "reference"):
        assert f"the {kind} server is ready" in log.read_text()
    manifest = json.loads((submitted.folder / "results/ppo/final/manifest.json").read_text())
    assert manifest["image"].endswith(f"+{built.images['serve'].stem}")
