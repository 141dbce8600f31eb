"""What a stage asks before it writes: does its attempt still own the run?

Owners of a state folder are numbered: the file ``owner-<number>.json`` with the highest number
names the present one (``rlhf.runtime.ownership`` makes them). An attempt that a lost node left
behind finds a higher number than its own: it is fenced off, and ends without a trace.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from rlhf.core.files import read_json
from rlhf.errors import Fenced

ATTEMPT = "RLHF_ATTEMPT"  # variable that tells ranks for which attempt and folder they work


@dataclass(frozen=True)
class Attempt:
    """One launch of one run: who and where.

    Attributes:
        id: tells it from every other attempt.
        job: SLURM job id, or None.
        restarts: how often SLURM had requeued the job before.
        host: name of the machine, for people.
        machine: boot and process namespace; process ids can be compared where it is equal.
        pid: process id of the launcher.
        pid_started: when that process started, in clock ticks after boot.
        started: when the attempt started, in seconds since 1970.
    """

    id: str
    job: str | None
    restarts: int
    host: str
    machine: str
    pid: int
    pid_started: int | None
    started: float

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started))
        job = f"SLURM job {self.job}, " if self.job else ""
        return f"{job}process {self.pid} on {self.host}, since {since}"


@dataclass(frozen=True)
class Owner:
    """Who owns a state folder, or owned it last.

    Attributes:
        attempt: the attempt.
        path: its file; the file's modification time is the heartbeat.
        released: whether the attempt gave the folder back.
    """

    attempt: Attempt
    path: Path
    released: bool


def owner_of(folder: str | Path) -> Owner | None:
    """Who owns a state folder, or owned it last; None when nobody ever did."""
    return newest(Path(folder))[1]


def newest(folder: Path) -> tuple[int, Owner | None]:
    """The highest number and who has it; a file damaged by a crash has a number and no owner."""
    while True:
        with contextlib.suppress(OSError):
            os.utime(folder)  # else NFS may list it from a cache that is a minute old
        paths = sorted(folder.glob("owner-*.json"))
        if not paths:
            return 0, None
        path = paths[-1]
        try:
            content = read_json(path)
            owner = Owner(Attempt(**content["attempt"]), path, content["released"])
        except FileNotFoundError:
            continue  # replaced between the two looks
        except (ValueError, TypeError, KeyError):
            owner = None
        return int(path.stem.rpartition("-")[2]), owner


def still_mine(folder: str | Path, attempt_id: str) -> bool:
    """Whether an attempt is still the newest owner of a state folder."""
    owner = owner_of(folder)
    return owner is not None and owner.attempt.id == attempt_id


def check() -> None:
    """To be called right before anything is written for the attempt that this process works for.

    There is nothing to check in a process that no launcher started.

    Raises:
        Fenced: another attempt has taken over.
    """
    announced = os.environ.get(ATTEMPT)
    if announced is None:
        return
    mine = json.loads(announced)
    if not still_mine(mine["folder"], mine["id"]):
        owner = owner_of(mine["folder"])
        raise Fenced(
            f"Attempt {mine['id']} has been replaced and writes nothing more.",
            where=mine["folder"],
            expected=f"the owner now: {owner.attempt if owner else 'nobody'}",
            hint="nothing: the new owner goes on from the last saved state",
        )
