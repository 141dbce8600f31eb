"""``rlhf recover``: after Snakemake was killed, make it safe to run it again.

A killed Snakemake leaves its lock, and jobs that run on. A new one would submit them a second time.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from rlhf.core.user_paths import path_argument, require_folder
from rlhf.errors import RlhfError
from rlhf.paths import STATE
from rlhf.pipeline import snakemakes as heads
from rlhf.pipeline.leftovers import SNAKEMAKE, Remnant, find_remnants, note_wait
from rlhf.runtime import slurm
from rlhf.runtime.fence import Owner
from rlhf.runtime.processes import send

POLL_SECONDS = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is to become of jobs that still run."""
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--wait", action="store_true", help="wait until they have finished")
    action.add_argument(
        "--cancel", action="store_true", help="end them; training stages save their state first"
    )
    parser.add_argument("--state", type=path_argument, default=STATE, help="default: state/")


def run(args: argparse.Namespace) -> int:
    """List what still runs, and end or await it on demand; unlock once nothing does.

    Returns:
        0 when Snakemake can be run again, 1 while something still runs.
    """
    require_folder(args.state, STATE)
    here = Path.cwd().resolve()
    acting = args.wait or args.cancel
    for head in _living_heads():
        raise RlhfError(
            "A Snakemake is running here, and looks after its jobs itself.",
            where=head.attempt,
            hint="there is nothing to recover: let it run, or end it there with Ctrl-C",
        )
    remnants = find_remnants(args.state, here)
    for one in remnants:
        print(f"{one.title:<32}  {one.where}")
    if remnants and not acting:
        print(
            f"{_count(remnants)} of a Snakemake that is gone. `rlhf recover --wait` lets them "
            "finish, `rlhf recover --cancel` ends them; then Snakemake can be run again."
        )
        return 1
    if args.cancel:
        _cancel(remnants)
    _wait(args.state, here, remnants)
    _unlock()
    return 0


def _living_heads() -> list[Owner]:
    for owner in heads.announced(SNAKEMAKE):
        note_wait(owner)
    return heads.living(SNAKEMAKE)


def _cancel(remnants: Iterable[Remnant]) -> None:
    """End what can be ended from here.

    Raises:
        RlhfError: something runs that is not Snakemake's job, and not on this machine.
    """
    jobs = [one.job for one in remnants if one.job]
    if jobs:
        slurm.cancel(jobs)
    for one in remnants:
        if one.pid is not None:
            send(one.pid, signal.SIGTERM)
    foreign = [f"{one.title}: {one.where}" for one in remnants if not one.job and one.pid is None]
    if foreign:
        raise RlhfError(
            "Not everything can be ended from here.",
            where="\n            ".join(foreign),
            hint="end these where they run, then call `rlhf recover` again",
        )


def _wait(state: Path, project: Path, remnants: list[Remnant]) -> None:
    """Wait until nothing is left, saying what is."""
    while remnants:
        print(f"waiting for {_count(remnants)}", flush=True)
        before = len(remnants)
        while len(remnants) == before:
            time.sleep(POLL_SECONDS)
            try:
                remnants = find_remnants(state, project)
            except RlhfError as error:
                print(f"{error.what} Asking again.", flush=True)


def _unlock() -> None:
    """Remove Snakemake's lock, unless a new Snakemake has come meanwhile."""
    if heads.living(SNAKEMAKE):
        raise RlhfError("A new Snakemake has been started here.", hint="let it run")
    if not any((SNAKEMAKE / "locks").glob("*")):
        print("Nothing is left to recover: run snakemake.")
        return
    from snakemake.persistence.file import FilePersistence

    FilePersistence(path=SNAKEMAKE).cleanup_locks()
    print("Unlocked: run snakemake again, and it goes on from here.")


def _count(remnants: list[Remnant]) -> str:
    jobs = sum(one.pid is None for one in remnants)
    parts = [(jobs, "job"), (len(remnants) - jobs, "process")]
    plurals = {"job": "jobs", "process": "processes"}
    return " and ".join(f"{n} {word if n == 1 else plurals[word]}" for n, word in parts if n)
