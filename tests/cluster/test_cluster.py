"""The cluster itself, and the pipeline on it from end to end."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import pytest
import yaml
from support.cluster.runs import ClusterProject, Topology, tiny_pipeline
from support.cluster.slurm import Cluster

NUMBERS = itertools.count(1)
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


def as_the_documentation_says(cluster: Cluster, name: str) -> ClusterProject:
    """A fresh clone, in which a user has edited the profile and the configuration."""
    project = ClusterProject.clone_for(cluster, name)
    (project.folder / "config/config.yaml").write_text(yaml.safe_dump(tiny_pipeline(Topology())))
    project.replace(PROFILE, "  slurm_account: lab\n", "")
    project.replace(PROFILE, "slurm_partition: gpu", "slurm_partition: cpu")
    return project


@pytest.mark.usefixtures("ahead")
def test_the_pipeline_in_the_words_of_the_documentation(
    cluster: Cluster, prepared: ClusterProject
) -> None:
    project = as_the_documentation_says(cluster, "documented")
    project.replace(PROFILE, "status-checks: 20", "status-checks: 2")  # the tests' only own edit
    project.run_command("snakemake", "--profile", "slurm", seconds=3000)
    assert "Nothing to be done" in project.run_command("snakemake", "--profile", "slurm")
    assert "all as their manifests say" in project.run_command("rlhf", "verify")
    kinds = ("models/", "datasets/", "tokenized/", "sft/", "reward/", "store/")
    assert project.results(*kinds) == prepared.results(*kinds)


def test_doctor_looks_at_the_login_node_and_into_a_job(cluster: Cluster) -> None:
    project = as_the_documentation_says(cluster, "doctor")
    done = project.start_command("rlhf", "doctor", "--json", "--job", "--", "--nodes=2").wait(600)
    found = json.loads(done.stdout)
    assert found.keys() == {"login", "a job"}
    failed = {
        one["name"] for checks in found.values() for one in checks if one["verdict"] == "failed"
    }
    assert failed == set(), done.stdout


@pytest.mark.parametrize(
    ("asked", "resources", "refusal"),
    [
        ({}, ["slurm_partition=nowhere"], "This cluster has no partition nowhere."),
        ({}, ["slurm_account=lab"], "This cluster keeps no accounts, but lab is given."),
        (
            {"gpus_per_node": 4},
            ["slurm_partition=cpu"],
            "train_sft asks for 4 GPUs on each node; partition cpu has at most 2.",
        ),
    ],
)
def test_what_the_cluster_does_not_have_is_refused(
    prepared: ClusterProject, asked: dict[str, int], resources: list[str], refusal: str
) -> None:
    project = prepared.copy_to(prepared.cluster, f"refused-{next(NUMBERS)}")
    project.configure(Topology(), **asked)
    target = "results/sft/long/manifest.json"
    done = project.start_snakemake(target, "--default-resources", *resources).wait(600)
    assert done.returncode == 1
    assert refusal in done.stderr
    assert "Traceback" not in done.stderr
    assert not project.jobs()
