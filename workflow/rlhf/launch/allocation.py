"""What SLURM has given us, and until when. The only part of the launcher that knows SLURM."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from rlhf.errors import RlhfError
from rlhf.launch.say import say
from rlhf.runtime import gpus
from rlhf.runtime.deadline import DEADLINE

QUERY_SECONDS = 120.0  # a busy controller takes its time
# What tells a step its job. Anything else would be taken for the step's own options.
_IDENTITY = (
    "SLURM_JOB_ID",
    "SLURM_JOBID",
    "SLURM_CLUSTER_NAME",
    "SLURM_CONF",
    "SLURM_SUBMIT_DIR",
    "SLURM_SUBMIT_HOST",
    "SLURM_RESTART_COUNT",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
)


@dataclass(frozen=True)
class Allocation:
    """Where this process may run things.

    Attributes:
        job: SLURM job id; None outside of a job.
        in_step: whether this process runs in a job step already, where no further one fits.
        on_first_node: whether it runs on the job's first node, as batch scripts do.
        nodes: names of the job's nodes; empty where they don't matter.
        cpus: CPUs of the job on each node; 0 where they don't matter.
        ends: when it ends, in seconds since 1970; None: never, as far as is known.
        visible_gpus: the GPUs that this process may see, as in CUDA_VISIBLE_DEVICES; None: any.
    """

    job: str | None = None
    in_step: bool = False
    on_first_node: bool = True
    nodes: tuple[str, ...] = ()
    cpus: int = 0
    ends: float | None = None
    visible_gpus: tuple[str, ...] | None = None

    @property
    def needs_steps(self) -> bool:
        """Whether agents are to be started as steps of the job.

        On one node too: of a batch script's processes SLURM signals the shell alone, of a step's
        those that it started. Only as a step is an agent told of a preemption.
        """
        return self.job is not None and not self.in_step

    def gpus(self, count: int) -> tuple[str, ...]:
        """The first ``count`` GPUs that this process may use.

        Raises:
            RlhfError: there are fewer.
        """
        if self.visible_gpus is None:
            return tuple(map(str, range(count)))
        if len(self.visible_gpus) < count:
            raise RlhfError(
                f"{count} GPUs were asked for, {len(self.visible_gpus)} are here.",
                where=f"CUDA_VISIBLE_DEVICES={','.join(self.visible_gpus)}",
                expected=f"{count} GPUs on each node",
                hint="lower cluster.gpus_per_node, or have the job ask for more GPUs",
            )
        return self.visible_gpus[:count]


def find_allocation(environment: Mapping[str, str] = os.environ) -> Allocation:
    """Look at the environment, and ask SLURM for what it does not say.

    Raises:
        RlhfError: SLURM does not know the job, or does not answer.
    """
    job = environment.get("SLURM_JOB_ID")
    visible = gpus.visible(environment)
    known = environment.get(
        DEADLINE
    )  # the coordinator has looked already; or the caller knows better
    ends = float(known) if known else None
    if job is None:
        return Allocation(ends=ends, visible_gpus=visible)
    in_step = environment.get("SLURM_STEP_ID", "").isdigit()
    if in_step and known is not None:
        return Allocation(job, in_step, ends=ends, visible_gpus=visible)
    try:
        found, nodes, cpus = _ask(job)
    except RlhfError as error:
        if not in_step:
            raise
        say(f"{error.what} The end of the job is unknown.")  # nothing else is needed here
        return Allocation(job, in_step, ends=ends, visible_gpus=visible)
    ends = min((end for end in (ends, found) if end is not None), default=None)
    on_first = environment.get("SLURMD_NODENAME", "") == nodes[0]
    return Allocation(job, in_step, on_first, nodes, cpus, ends, visible)


def this_node(environment: Mapping[str, str] = os.environ) -> int:
    """Which of the step's nodes this is, from 0."""
    return int(environment.get("SLURM_NODEID", "0"))


def step_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """``environment`` for srun, without what would change the step's options.

    A batch script's variables say what the *job* asked for; srun takes them for the step's.
    """
    return {
        name: value
        for name, value in environment.items()
        if name in _IDENTITY or not name.startswith(("SLURM_", "SRUN_", "SBATCH_", "SQUEUE_"))
    }


def _ask(job: str) -> tuple[float | None, tuple[str, ...], int]:
    """End, nodes, and CPUs on each node of a job."""
    # The end as seconds since 1970: local times are ambiguous once a year.
    variables = {**step_environment(), "SLURM_TIME_FORMAT": "%s"}
    command = ["squeue", "--noheader", f"--jobs={job}", "--format=%e|%C|%N"]
    end, cpus, nodes = [*_output(command, variables).strip().split("|"), "", ""][:3]
    if not nodes:
        raise _no_answer(command, f"job {job} has no nodes")
    names = _output(["scontrol", "show", "hostnames", nodes], variables).split()
    return (
        float(end) if end.isdigit() else None,  # a job without a limit has none
        tuple(names),
        int(cpus) // len(names),
    )


def _output(command: list[str], environment: Mapping[str, str]) -> str:
    try:
        return subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True,
            timeout=QUERY_SECONDS,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise _no_answer(command, getattr(error, "stderr", None) or str(error)) from None


def _no_answer(command: list[str], said: str) -> RlhfError:
    return RlhfError(
        f"SLURM does not say what this job has: {said.strip()}",
        where=" ".join(command),
        expected="an answer about the job that this process runs in (SLURM_JOB_ID)",
        hint="run the command by hand; outside of a job, unset SLURM_JOB_ID",
    )
