"""The cluster itself, and the pipeline on it from end to end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from runs import ClusterProject, Topology, tiny_pipeline
from slurm import Cluster

PROFILE = "profiles/slurm/profile.v9+.yaml"


def look_at_the_machine() -> list[str]:
    files = (Path("/etc/passwd"), Path("/etc/hosts"), Path("/etc/slurm/slurm.conf"))
    mounts = Path("/proc/self/mounts").read_text()
    return [os.uname().nodename, mounts, *(one.read_text() for one in files if one.exists())]


BEFORE = look_at_the_machine()


def test_jobs_run_as_an_ordinary_user_on_hosts_of_their_own(cluster: Cluster) -> None:
    script = 'srun bash -c "id -un; hostname; echo \\$CUDA_VISIBLE_DEVICES; ls /tmp"'
    job = cluster.sbatch(script, "--nodes=2", "--gres=gpu:fake:2", "--output=told.txt")
    assert cluster.wait_for(job) == "COMPLETED"
    told = (cluster.disk.outside(cluster.user.home) / "told.txt").read_text().split()
    assert sorted(told) == sorted(["ada", "node1", "0,1", "ada", "node2", "0,1"])


def test_nothing_of_the_machine_itself_is_touched(cluster: Cluster) -> None:
    assert cluster.run("hostname") == "login\n"
    assert "ada:" in cluster.run("cat", "/etc/passwd")
    assert look_at_the_machine() == BEFORE


@pytest.mark.usefixtures("ahead")
def test_the_pipeline_in_the_words_of_the_readme(
    cluster: Cluster, prepared: ClusterProject
) -> None:
    """``snakemake --profile slurm`` from a fresh clone, once its two files are edited."""
    project = ClusterProject.clone_for(cluster, "readme")
    (project.folder / "config/config.yaml").write_text(yaml.safe_dump(tiny_pipeline(Topology())))
    project.replace(PROFILE, "  slurm_account: lab\n", "")
    project.replace(PROFILE, "slurm_partition: gpu", "slurm_partition: cpu")
    project.replace(PROFILE, "status-checks: 20", "status-checks: 2")  # the only other edit
    project.run_command("snakemake", "--profile", "slurm", seconds=600)
    assert "Nothing to be done" in project.run_command("snakemake", "--profile", "slurm")
    assert "all as their manifests say" in project.run_command("rlhf", "verify")
    kinds = ("models/", "datasets/", "tokenized/", "sft/", "reward/", "store/")
    assert project.results(*kinds) == prepared.results(*kinds)
