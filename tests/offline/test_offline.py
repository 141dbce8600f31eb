"""All but the fetch stages, where there is no network but this machine's own loopback."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support.programs import FOLDER
from support.projects import TINY, Project

FETCHED = ["results/models/tiny/manifest.json", "results/datasets/demo/manifest.json"]
INTERFACES = "import socket; print([name for _, name in socket.if_nameindex()])"


def without_network(*command: str) -> list[str]:
    """The command line that runs a command in a network of its own."""
    own = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]
    return [*own, sys.executable, str(FOLDER / "loopback.py"), *command]


def run(command: list[str], project: Project) -> str:
    done = subprocess.run(
        command,
        cwd=project.folder,
        env=project.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
def test_everything_after_the_fetch_stages_runs_without_a_network(tmp_path):
    project = Project.clone(tmp_path / "project")
    snakemake = ["snakemake", "--profile", "local", "--configfile", TINY]
    run([*snakemake, "--", *FETCHED], project)

    assert run(without_network(sys.executable, "-c", INTERFACES), project) == "['lo']\n"
    ran = run(without_network(*snakemake), project)
    assert "rule train_ppo:" in ran
    assert "rule fetch_" not in ran
    assert (project.folder / "results/report/final/report.html").is_file()
    assert not project.would_run()
