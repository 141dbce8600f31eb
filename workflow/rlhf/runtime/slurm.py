"""What SLURM knows of this user's jobs, by ``squeue`` and ``scancel``: no accounting is needed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from rlhf.errors import RlhfError

PENDING = "PENDING"
TIMEOUT_SECONDS = 60.0
# Tabs between the fields: names and comments may hold anything else.
_FIELDS = ("%A", "%T", "%j", "%N", "%M", "%Z", "%k")


@dataclass(frozen=True)
class Job:
    """A job that is not finished: waiting, running, or on its way out.

    Attributes:
        id: job id; each task of an array has one of its own.
        state: SLURM's word, such as ``RUNNING``, ``PENDING``, ``COMPLETING``.
        name: name of the job.
        nodes: nodes that it runs on; empty while it waits.
        elapsed: how long it has run, as SLURM writes it.
        folder: working directory that it was submitted from.
        comment: free text.
    """

    id: str
    state: str
    name: str
    nodes: str
    elapsed: str
    folder: str
    comment: str


def this_job() -> tuple[str | None, int]:
    """The job that this process runs in, or None; and how often SLURM has requeued it."""
    return os.environ.get("SLURM_JOB_ID"), int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def nodes_of_this_job() -> int:
    """Nodes of the job that this process runs in; 1 outside of one."""
    return int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))


def gave_gpus() -> bool:
    """Whether the job that this process runs in has GPUs on this node."""
    return bool(os.environ.get("SLURM_JOB_GPUS"))


def unfinished_jobs() -> dict[str, Job] | None:
    """This user's unfinished jobs by id; None where SLURM is absent or does not answer."""
    command = ["squeue", "--noheader", f"--user={os.getuid()}", "--format=" + "\t".join(_FIELDS)]
    # Variables such as SQUEUE_STATES would hide jobs.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SQUEUE_")}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    jobs = [Job(*(field.strip() for field in row)) for row in rows if len(row) == len(_FIELDS)]
    return {job.id: job for job in jobs}


def cancel(ids: Iterable[str]) -> None:
    """Ask SLURM to end jobs; jobs that are already gone are no error.

    Raises:
        RlhfError: SLURM refused, or does not answer.
    """
    command = ["scancel", *ids]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
        problem = done.stderr.strip() if done.returncode else ""
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem and "Invalid job id" not in problem:
        raise RlhfError(
            f"The jobs could not be cancelled: {problem}",
            where=" ".join(command),
            hint="run this command by hand where SLURM answers",
        )
