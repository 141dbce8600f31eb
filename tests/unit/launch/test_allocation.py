"""What the environment says of a job; tests/cluster asks a real SLURM."""

from __future__ import annotations

import pytest

from rlhf.errors import RlhfError
from rlhf.launch import allocation
from rlhf.launch.allocation import Allocation, find_allocation, step_environment, this_node

BATCH = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "node1"}


@pytest.fixture
def told(monkeypatch):
    """Sets what SLURM says of the job: its end, CPUs in all, nodes."""

    def put(end: str, cpus: int, *nodes: str) -> None:
        answers = {"squeue": f"{end}|{cpus}|node[1-9]\n", "scontrol": "\n".join(nodes) + "\n"}
        monkeypatch.setattr(allocation, "_output", lambda command, _: answers[command[0]])

    return put


def test_outside_of_a_job():
    found = find_allocation({})
    assert found == Allocation()
    assert not found.needs_steps
    assert found.gpus(3) == ("0", "1", "2")


def test_a_batch_script(told):
    told("1800000000", 17, "node1", "node2")
    found = find_allocation(BATCH | {"CUDA_VISIBLE_DEVICES": "4,GPU-5e,6"})
    assert found.needs_steps
    assert found.on_first_node
    assert (found.nodes, found.cpus, found.ends) == (("node1", "node2"), 8, 1.8e9)
    assert found.gpus(2) == ("4", "GPU-5e")


def test_a_shell_that_holds_a_job_from_elsewhere(told):
    told("1800000000", 2, "node1")
    assert not find_allocation({"SLURM_JOB_ID": "7"}).on_first_node


@pytest.mark.parametrize("end", ["NONE", "N/A", "Unknown"])
def test_a_job_without_a_limit(told, end):
    told(end, 2, "node1")
    assert find_allocation(BATCH).ends is None


def test_an_earlier_end_may_be_given(told):
    told("1800000000", 2, "node1")
    assert find_allocation(BATCH | {"RLHF_DEADLINE": "1700000000.5"}).ends == 1700000000.5
    assert find_allocation(BATCH | {"RLHF_DEADLINE": "1900000000"}).ends == 1.8e9
    assert find_allocation({"RLHF_DEADLINE": "1700000000"}).ends == 1.7e9


def test_a_step_does_not_ask_again():
    """Nothing answers here: to ask would fail."""
    step = BATCH | {"SLURM_STEP_ID": "0", "SLURM_NODEID": "1"}
    found = find_allocation(step | {"RLHF_DEADLINE": "1700000000"})
    assert not found.needs_steps
    assert found.ends == 1.7e9
    assert find_allocation(step | {"RLHF_DEADLINE": ""}).ends is None
    assert this_node(step) == 1


def test_slurm_that_does_not_answer(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RlhfError, match="SLURM does not say what this job has") as caught:
        find_allocation(BATCH)
    assert "squeue --noheader --jobs=7" in str(caught.value.where)


def test_a_job_that_is_over(monkeypatch):
    monkeypatch.setattr(allocation, "_output", lambda *_: "\n")
    with pytest.raises(RlhfError, match="job 7 has no nodes"):
        find_allocation(BATCH)


def test_a_step_goes_on_without_slurms_answer(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_allocation(BATCH | {"SLURM_STEP_ID": "0"})
    assert (found.job, found.needs_steps, found.ends) == ("7", False, None)
    assert "The end of the job is unknown" in capsys.readouterr().err


def test_too_few_gpus():
    with pytest.raises(RlhfError, match="4 GPUs were asked for, 2 are here") as caught:
        Allocation(visible_gpus=("0", "1")).gpus(4)
    assert "gpus_per_node" in str(caught.value)
    assert Allocation(visible_gpus=()).gpus(0) == ()


def test_a_step_is_told_its_job_and_none_of_its_options():
    kept = {"SLURM_JOB_ID": "7", "SLURM_CONF": "/x", "SLURMD_NODENAME": "n", "HOME": "/h"}
    dropped = dict.fromkeys(
        ("SLURM_NTASKS", "SLURM_CPU_BIND", "SLURM_GPUS", "SRUN_CPUS_PER_TASK", "SBATCH_GRES",
         "SLURM_MEM_PER_NODE", "SQUEUE_STATES"), "1"
    )  # fmt: skip
    assert step_environment(kept | dropped) == kept


@pytest.mark.parametrize("named", ["-1", "NoDevFiles", ""])
def test_names_that_stand_for_no_gpu(named):
    allocation = find_allocation({"CUDA_VISIBLE_DEVICES": named})
    assert allocation.gpus(0) == ()
    with pytest.raises(RlhfError, match="1 GPUs were asked for, 0 are here"):
        allocation.gpus(1)
