from __future__ import annotations

import pytest
import yaml

from rlhf.doctor.cluster import PROFILE, check_cluster, default_resources

HEALTHY = {"default-resources": {"slurm_account": "lab", "slurm_partition": "gpu"}}


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """Writes the profile for clusters."""
    monkeypatch.chdir(tmp_path)

    def write(values=HEALTHY, **changes):
        PROFILE.parent.mkdir(parents=True, exist_ok=True)
        PROFILE.write_text(yaml.safe_dump(values | changes))

    write()
    return write


def look():
    return {check.name: check for check in check_cluster()}


def test_a_cluster_in_order(profile, fake_slurm):
    found = look()
    assert {check.verdict for check in found.values()} == {"ok"}
    assert found["SLURM"].found == "answers; slurm 22.05.8"
    assert found["accounting"].found == "accounts: course, lab (every job needs one)"
    assert "gpu: 6 nodes of 4 a100 GPUs/8 h200 GPUs, at most 24 h" in found["partitions"].found
    assert "cpu: 16 nodes, no limit" in found["partitions"].found
    assert (found["account"].found, found["partition"].found) == ("lab", "gpu")


def test_a_slurm_that_does_not_answer(profile, fake_slurm):
    fake_slurm(down=True)
    (check,) = check_cluster()
    assert check.verdict == "failed"
    assert "Unable to contact slurm controller" in check.found
    assert check.to_do


def test_no_slurm(profile, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    (check,) = check_cluster()
    assert check.verdict == "warning"
    assert "--profile local" in check.to_do


def test_without_accounting_no_account_may_be_given(profile, fake_slurm):
    fake_slurm(accounting=False)
    found = look()
    assert found["accounting"].verdict == "ok"
    assert "squeue alone" in found["accounting"].found
    assert found["account"].verdict == "failed"
    assert "delete that line" in found["account"].to_do
    profile({"default-resources": {"slurm_partition": "gpu"}})
    assert look()["account"].verdict == "ok"


def test_what_the_profile_names_has_to_exist(profile, fake_slurm):
    profile({"default-resources": ["slurm_account=lap", "slurm_partition=gpus", "mem_mb=1"]})
    found = look()
    assert "no account lap" in found["account"].found
    assert "no partition gpus" in found["partition"].found
    assert "did you mean 'gpu'?" in found["partition"].to_do
    assert {found[name].verdict for name in ("account", "partition")} == {"failed"}


def test_status_by_sacct_needs_accounting(profile, fake_slurm):
    fake_slurm(accounting=False)
    profile({}, **{"slurm-status-command": "sacct"})
    assert look()["job status"].verdict == "failed"


def test_only_account_and_partition_are_read_from_a_profile():
    assert default_resources({}) == {}
    given = {"slurm_account": "'lab'", "mem_mb": 500, "slurm_partition": None}
    assert default_resources({"default-resources": given}) == {"slurm_account": "lab"}
