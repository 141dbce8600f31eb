"""The cluster itself, and the pipeline on it from end to end."""

from __future__ import annotations

import os
from pathlib import Path

from runs import FINISHED, ClusterProject
from slurm import Cluster


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


def test_the_pipeline_ends(finished: ClusterProject) -> None:
    said = finished.run_command(*finished.snakemake_command("--dry-run", FINISHED))
    assert "Nothing to be done" in said
    assert "all as their manifests say" in finished.run_command("rlhf", "verify")
