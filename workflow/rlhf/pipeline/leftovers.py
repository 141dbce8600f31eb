"""What a Snakemake that is gone has left running: launchers, and jobs of SLURM.

A new Snakemake would start the same work a second time. The launcher refuses that, and Snakemake
then deletes the outputs of the job that failed, which are those of the one that still runs.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rlhf.errors import RlhfError
from rlhf.paths import LOGS
from rlhf.provenance.manifest import MANIFEST
from rlhf.runtime import slurm
from rlhf.runtime.fence import Owner, owner_of
from rlhf.runtime.ownership import lives, on_this_machine

SNAKEMAKE = Path(".snakemake")
PATIENCE_SECONDS = 20.0  # for what is about to end
ENDING = "COMPLETING"  # SLURM's word for a job whose processes it ends

Job = tuple[str, ...]  # its rule, then its wildcards
# Where the executor plugin keeps its logs, here and by default: there if it ever submitted a job.
PLUGIN_LOGS = (LOGS / "slurm", SNAKEMAKE / "slurm_logs")
# What the executor plugin names its jobs: its run's id, perhaps after a prefix; and their comments.
_RUN_ID = re.compile(r"(^|_)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
_COMMENT = re.compile(r"rule_(?P<rule>\w+?)(?:_wildcards_(?P<name>.*))?$")


@dataclass(frozen=True)
class Remnant:
    """Something that a Snakemake started, and that is not finished.

    Attributes:
        title: what it works on, such as ``train_sft chat``.
        where: what and where it is, for people.
        job: SLURM job that Snakemake submitted, or None.
        pid: process on this machine, or None.
    """

    title: str
    where: str
    job: str | None = None
    pid: int | None = None


def find_remnants(state: Path, project: Path) -> list[Remnant]:
    """SLURM jobs and launchers of a project that are not finished.

    Args:
        state: folder of resume states, whose owners are asked for.
        project: the working directory of its Snakemake, resolved.

    Raises:
        RlhfError: jobs were submitted, and SLURM does not say what became of them.
    """
    folders = sorted({path.parent for path in state.glob("*/*/owner-*.json")})
    owners = {f"{one.parent.name} {one.name}": owner_of(one) for one in folders}
    titles = {owner.attempt.job: title for title, owner in owners.items() if owner}
    jobs = slurm.unfinished_jobs()
    if jobs is None:
        submitted = any(titles) or any(map(Path.exists, PLUGIN_LOGS))
        if submitted and shutil.which("squeue"):
            raise RlhfError(
                "SLURM does not answer, so nobody knows which jobs still run.",
                where="squeue",
                hint="try again when it does",
            )
        jobs = {}
    found = []
    for job in jobs.values():
        submitted = _is_snakemakes(job) and Path(job.folder).resolve() == project
        if submitted or job.id in titles:
            place = f"{job.state} {job.elapsed} on {job.nodes}" if job.nodes else job.state
            title = titles.get(job.id) or _title(job)
            found.append(Remnant(title, f"job {job.id} {place}", job.id if submitted else None))
    for title, owner in owners.items():
        if owner and owner.attempt.job not in jobs and _lives(owner):
            pid = owner.attempt.pid if on_this_machine(owner.attempt) else None
            found.append(Remnant(title, str(owner.attempt), pid=pid))
    return found


def _is_snakemakes(job: slurm.Job) -> bool:
    return bool(_RUN_ID.search(job.name) or _COMMENT.match(job.comment))


def _title(job: slurm.Job) -> str:
    found = _COMMENT.match(job.comment)
    return f"{found['rule']} {found['name'] or ''}".strip() if found else job.name


def _lives(owner: Owner) -> bool:
    if not owner.released:
        note_wait(owner)
    return lives(owner)


def note_wait(owner: Owner) -> None:
    """Say that only an owner's heartbeat can tell whether it lives, which takes a while."""
    if not on_this_machine(owner.attempt):
        print(f"looking for a sign of life: {owner.attempt} …", flush=True)


def refuse_running(state: Path, project: Path, wanted: Mapping[Job, Collection[str]]) -> None:
    """Refuse to begin what is still at work, before Snakemake touches anything of it.

    Waits a little for attempts that are about to end, and as long as it takes for jobs that SLURM
    is ending already, as after a Ctrl-C.

    Args:
        state: folder of resume states, whose owners are asked for.
        project: the working directory of Snakemake, resolved.
        wanted: of each job that is to run, rule and wildcards → its outputs.

    Raises:
        RlhfError: an earlier attempt at one of them waits, runs, or has finished just now.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    met: set[Job] = set()
    while running := _at_work(state, project, wanted):
        if not met:
            print("waiting for what an earlier start left running …", file=sys.stderr, flush=True)
        met |= running.keys()
        ending = all(ENDING in where for where in running.values())
        if not ending and time.monotonic() > until:
            raise RlhfError(
                "What is to run is at work already, by an earlier start.",
                where="\n            ".join(running.values()),
                hint="nothing was started or deleted; `rlhf recover --wait` lets it finish, `rlhf "
                "recover --cancel` ends it",
            )
        time.sleep(1.0)
    made = [one for job in met for one in wanted[job] if Path(one).name == MANIFEST]
    if found := [one for one in made if Path(one).exists()]:
        raise RlhfError(
            "An earlier start has just finished what was to run.",
            where=", ".join(found),
            hint="run the same command again: it takes these as they are",
        )


def _at_work(state: Path, project: Path, wanted: Iterable[Job]) -> dict[Job, str]:
    """Which of the jobs an earlier attempt waits for or runs, and where that is."""
    jobs = slurm.unfinished_jobs() or {}
    running = {}
    for wanted_job in wanted:
        rule, *wildcards = wanted_job
        owner = owner_of(state / rule / ".".join(wildcards))
        if owner and lives(owner):
            known = jobs.get(owner.attempt.job or "")
            doing = f", {known.state}" if known else ""
            running[wanted_job] = f"{rule} {'.'.join(wildcards)}: {owner.attempt}{doing}"
            continue
        title = f"{rule} {'_'.join(wildcards)}"  # as the plugin writes it into the comment
        for job in jobs.values():  # one that waits owns nothing yet
            here = _is_snakemakes(job) and Path(job.folder).resolve() == project
            if here and _title(job) == title:
                running[wanted_job] = f"{title}: job {job.id} {job.state}"
    return running
