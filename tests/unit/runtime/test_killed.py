"""What is said of a process that a signal ended."""

from __future__ import annotations

import signal

import pytest

from rlhf.runtime.killed import Memory, ended_by, signal_name


@pytest.mark.parametrize(
    ("status", "number"),
    [(-9, 9), (137, 9), (139, 11), (0, None), (1, None), (75, None), (255, None)],
)
def test_the_signal_in_an_exit_status(status, number):
    assert ended_by(status) == number


def test_names():
    assert signal_name(9) == "SIGKILL"
    assert signal_name(40) == "signal 40"


@pytest.fixture
def machine(tmp_path):
    """A machine with 64 GB, and a job's control group of 30 GB around this process's own."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    job = groups / "slurm/job_7"
    (job / "step_0").mkdir(parents=True)
    (proc / "self").mkdir(parents=True)
    (proc / "self/cgroup").write_text("0::/slurm/job_7/step_0\n")
    (proc / "vmstat").write_text("nr_free_pages 100\noom_kill 3\n")
    (proc / "meminfo").write_text("MemTotal: 64000000 kB\nMemAvailable: 1000000 kB\n")
    (job / "memory.max").write_text("30000000000\n")
    (job / "memory.peak").write_text("29900000000\n")
    (job / "memory.events").write_text("low 0\noom 0\noom_kill 0\n")
    (job / "step_0/memory.max").write_text("max\n")
    return proc, groups, job


def test_the_kernel_did_it(machine):
    proc, groups, job = machine
    memory = Memory(proc, groups, {"SLURM_MEM_PER_NODE": "28672"})
    (proc / "vmstat").write_text("nr_free_pages 100\noom_kill 4\n")
    said = memory.explain(signal.SIGKILL)
    assert said.startswith(": out of memory? The kernel has killed 1 for memory meanwhile; ")
    assert f"29.9 GB used at most, 30.0 GB allowed ({job})" in said
    assert "SLURM gave the job 28.0 GiB on each node" in said
    assert "1.0 of this machine's 65.5 GB are free now" in said


def test_only_the_group_tells(machine):
    proc, groups, job = machine
    (proc / "vmstat").unlink()
    memory = Memory(proc, groups, {})
    (job / "memory.events").write_text("low 0\noom 1\noom_kill 2\n")
    assert "The kernel has killed 2 for memory meanwhile" in memory.explain(signal.SIGKILL)


def test_somebody_else_did_it(machine):
    proc, groups, _ = machine
    assert "has killed nothing for memory meanwhile" in Memory(proc, groups, {}).explain(9)


def test_the_first_version_of_control_groups(machine):
    proc, groups, _ = machine
    (proc / "self/cgroup").write_text("5:cpu:/x\n4:memory:/hidden/job\n0::/\n")
    folder = groups / "memory"  # of a path outside of this namespace only the root is seen
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text("8000000000\n")
    (folder / "memory.max_usage_in_bytes").write_text("7900000000\n")
    said = Memory(proc, groups, {}).explain(signal.SIGKILL)
    assert f"7.9 GB used at most, 8.0 GB allowed ({folder})" in said


def test_no_figures_at_all(tmp_path):
    memory = Memory(tmp_path, tmp_path, {})
    assert memory.explain(signal.SIGKILL) == ": out of memory?"
    assert memory.explain(signal.SIGTERM) == ""
