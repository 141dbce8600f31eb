"""Command lines of srun, torchrun and ranks, and the tree that --dry-run prints."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path

import pytest

from rlhf.launch.allocation import Allocation
from rlhf.launch.command import run
from rlhf.launch.containers import CODE, GUARDED, Host
from rlhf.launch.coordinator import Coordinator, srun_command
from rlhf.launch.dry_run import describe
from rlhf.launch.ranks import Rendezvous, rank_command, rank_variables
from rlhf.launch.topology import plan
from rlhf.launch.worker import exit_code, leave_code

PYTHON = sys.executable
SCRATCH = Path("/s")
STAGE = ["rlhf.stages.train_ppo", "--name", "final run"]
JOB = Allocation(job="7", nodes=("node1", "node2"), cpus=64, visible_gpus=tuple(map(str, range(8))))


def test_one_rank_is_the_stage_itself(options):
    one = options()
    assert rank_command(one, plan(one, ()), Host(), SCRATCH, None) == [PYTHON, "-m", *STAGE]


def test_the_ranks_of_one_node_meet_on_its_loopback(options):
    one = options("--processes 4")
    assert rank_command(one, plan(one, ()), Host(), SCRATCH, None) == [
        PYTHON, "-m", "rlhf.launch.torchrun", "--standalone", "--local-addr=127.0.0.1",
        "--nproc-per-node=4", "--log-dir=/s/torchrun", "-m", "--", "rlhf.launch.worker", *STAGE,
    ]  # fmt: skip


@pytest.mark.parametrize(("first", "host"), [(True, "1"), (False, "0")])
def test_the_ranks_of_several_nodes_meet_at_the_first(options, first, host):
    one = options("--nodes 2")
    rendezvous = Rendezvous("10.0.0.1:29500", "10.0.0.9", first)
    assert rank_command(one, plan(one, ()), Host(), SCRATCH, rendezvous) == [
        PYTHON, "-m", "rlhf.launch.torchrun", "--nnodes=2", "--rdzv-backend=c10d",
        "--rdzv-endpoint=10.0.0.1:29500", "--rdzv-id=10.0.0.1:29500",
        f"--rdzv-conf=is_host={host},join_timeout=3600,read_timeout=3600",
        "--local-addr=10.0.0.9", "--nproc-per-node=1", "--log-dir=/s/torchrun",
        "-m", "--", "rlhf.launch.worker", *STAGE,
    ]  # fmt: skip


def test_what_ranks_find_in_their_environment(options):
    one = options("--gpus 2 --threads 3 --serve reward=/r")
    endpoints = {"reward": "127.0.0.1:1"}
    found = rank_variables(one, plan(one, ("4", "5")), SCRATCH, endpoints)
    assert found.items() >= {
        "OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "4,5", "PYTHONNOUSERSITE": "1",
        "RLHF_ENDPOINT_REWARD": "127.0.0.1:1", "RLHF_TLS": "/s/tls", "TMPDIR": "/s",
    }.items()  # fmt: skip
    alone = rank_variables(options(), plan(options(), ()), SCRATCH, {})
    assert alone["CUDA_VISIBLE_DEVICES"] == "", "GPUs that nobody asked for"
    assert "RLHF_TLS" not in alone


def test_gpus_get_a_growing_allocator_and_fixed_workspaces_unless_they_are_set(
    options, monkeypatch
):
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    one = options("--gpus 2")
    found = rank_variables(one, plan(one, ("4", "5")), SCRATCH, {})
    assert found["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert found["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    alone = rank_variables(options(), plan(options(), ()), SCRATCH, {})
    assert not {"PYTORCH_CUDA_ALLOC_CONF", "CUBLAS_WORKSPACE_CONFIG"} & alone.keys()


def test_srun(options):
    assert srun_command(options("--nodes 2 --gpus 8"), 64, ["--agent"]) == [
        "srun", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=64",
        "--gres=gpu:8", "--kill-on-bad-exit=1", "--wait=0", "--overlap", "--mpi=none",
        "--unbuffered", PYTHON, "-m", "rlhf.launch", "--agent",
    ]  # fmt: skip
    assert not {"--gres=gpu:0", "--cpus-per-task=0"} & set(srun_command(options(), 0, []))


def test_srun_is_not_sent_what_makes_it_kill_its_tasks(options, tmp_path):
    coordinator = Coordinator(options("--nodes 2"), JOB)
    to_srun = [
        coordinator._for_srun(one) for one in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    ]
    assert to_srun == [signal.SIGUSR2, signal.SIGUSR1, signal.SIGUSR2]
    assert coordinator._for_srun(signal.SIGINT) == signal.SIGTERM  # a second Ctrl-C means it
    coordinator.end_all()
    assert not list((tmp_path / "logs").iterdir())


@pytest.mark.parametrize(
    ("codes", "status", "expected"),
    [
        ([0, 0], 0, 0),
        ([75, 75], 0, 75),
        ([0, 75], 0, 75),
        ([3, 1], 1, 3),
        ([75, 4, 1], 4, 4),
        ([75], 137, 137),  # one left none: it was killed
        ([], 1, 1),
    ],
)
def test_exit_codes_come_together(tmp_path, codes, status, expected):
    for name, code in enumerate(codes):
        leave_code(tmp_path, str(name), code)
    assert exit_code(tmp_path, status) == expected


def test_several_nodes_without_a_job(options, capsys):
    assert run(["--nodes", "2", "--", "m"]) == 2
    assert "2 nodes can only be had in a SLURM job" in capsys.readouterr().err


def test_the_tree_of_ppo_on_two_nodes_of_eight_gpus(options, monkeypatch, tmp_path):
    """A golden text: it changes when the processes do."""
    monkeypatch.setenv("PATH", "")
    one = options(
        "--nodes 2 --gpus 8 --server-gpus 1 --processes 6 --threads 8 --server-threads 4"
        " --serve reward=store/reward --serve reference=store/reference --state state/ppo"
        " --image train.sif --serve-image serve.sif --log logs/ppo.log"
    )
    binds = [f"--bind={one}" for one in (tmp_path, CODE, "/SCRATCH")]
    inside = shlex.join(["--home=/SCRATCH/home", *binds])
    guarded, python = shlex.join(map(str, GUARDED)), shlex.quote(PYTHON)
    pwd = shlex.quote(f"--pwd={tmp_path}")
    common = """PYTHONNOUSERSITE=1
    PYTHONUNBUFFERED=1
    TMPDIR=/SCRATCH"""
    assert (
        describe(one, JOB)
        == f"""\
state state/ppo, owned by this launch
srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --cpus-per-task=64 --gres=gpu:8 \
--kill-on-bad-exit=1 --wait=0 --overlap --mpi=none --unbuffered {python} -m rlhf.launch \
{" ".join(one.given)} --agent --exit-codes=/EXIT_CODES --rendezvous=FIRST:PORT -- \
rlhf.stages.train_ppo --name 'final run'
on the first node, and likewise on 1 more:
  server reward, on GPU 6, log logs/ppo.node0.reward-server.log:
    CUDA_VISIBLE_DEVICES=6
    {common}
    PYTHONPATH={CODE}
    {guarded} apptainer exec --nv --cleanenv {inside} {pwd} serve.sif \
python -m rlhf.serving.tritonserver store/reward …
  server reference, on GPU 7, log logs/ppo.node0.reference-server.log:
    CUDA_VISIBLE_DEVICES=7
    {common}
    PYTHONPATH={CODE}
    {guarded} apptainer exec --nv --cleanenv {inside} {pwd} serve.sif \
python -m rlhf.serving.tritonserver store/reference …
  6 ranks of 12, on GPU 0, 1, 2, 3, 4, 5:
    OMP_NUM_THREADS=8
    MKL_NUM_THREADS=8
    OPENBLAS_NUM_THREADS=8
    NUMEXPR_NUM_THREADS=8
    CUDA_VISIBLE_DEVICES=0,1,2,3,4,5
    {common}
    RLHF_ENDPOINT_REWARD=127.0.0.1:PORT
    RLHF_ENDPOINT_REFERENCE=127.0.0.1:PORT
    RLHF_TLS=/SCRATCH/tls
    RLHF_EXIT_FOLDER=/SCRATCH/exit
    RLHF_GPUS=8
    PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
    CUBLAS_WORKSPACE_CONFIG=:4096:8
    PYTHONPATH={CODE}
    {guarded} apptainer exec --nv --cleanenv {inside} {pwd} train.sif \
python -m rlhf.launch.torchrun --nnodes=2 --rdzv-backend=c10d --rdzv-endpoint=FIRST:PORT \
--rdzv-id=FIRST:PORT --rdzv-conf=is_host=1,join_timeout=3600,read_timeout=3600 \
--local-addr=ADDRESS --nproc-per-node=6 --log-dir=/SCRATCH/torchrun -m -- rlhf.launch.worker \
rlhf.stages.train_ppo --name 'final run'"""
    )


def test_the_tree_of_a_run_with_a_sampler(options, tmp_path):
    one = options(
        "--gpus 3 --server-gpus 1 --sampler sft/chat/model --log logs/ppo.log --sample-image s.sif"
    )
    lines = describe(one, JOB).splitlines()
    where = lines.index("  server sampler, on GPU 2, log logs/ppo.sampler-server.log:")
    sampler, ranks = lines[where : where + 7], lines[where + 7 :]
    assert sampler[1] == "    CUDA_VISIBLE_DEVICES=2"
    assert sampler[-1].endswith(" s.sif python -m rlhf.serving.vllmserver …")
    assert ranks[0] == "  2 ranks of 2, on GPU 0, 1:"
    assert "    RLHF_ENDPOINT_SAMPLER=127.0.0.1:PORT" in ranks
