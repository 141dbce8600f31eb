"""One writer for each state folder: the launcher claims it before it starts anything.

To take a folder over is to create the owner's file with the next number, which the file system
lets one claimant do. ``rlhf.runtime.fence`` says how the replaced attempt is kept from writing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import secrets
import threading
import time
from pathlib import Path
from typing import Any

from rlhf.core.files import fsync_path, write_json
from rlhf.errors import RlhfError
from rlhf.runtime import slurm
from rlhf.runtime.fence import ATTEMPT, Attempt, Owner, newest, still_mine
from rlhf.runtime.processes import start_time

BEAT_SECONDS = 10.0
LOST_SECONDS = 60.0  # silence after which an owner that nobody can ask about counts as lost


def new_attempt() -> Attempt:
    """A new attempt, of this process."""
    job, restarts = slurm.this_job()
    return Attempt(
        id=secrets.token_hex(8),
        job=job,
        restarts=restarts,
        host=platform.node(),
        machine=_machine(),
        pid=os.getpid(),
        pid_started=start_time(os.getpid()),
        started=time.time(),
    )


class Ownership:
    """A claimed state folder, with its heartbeat; a context manager that gives it back.

    Attributes:
        attempt: the attempt that owns it.
    """

    def __init__(self, folder: Path, attempt: Attempt, path: Path) -> None:
        self.attempt = attempt
        self._folder, self._path = folder, path
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._heart.start()

    def variables(self) -> dict[str, str]:
        """What the ranks have to find in their environment."""
        announced = dataclasses.asdict(self.attempt) | {"folder": str(self._folder)}
        return {ATTEMPT: json.dumps(announced, sort_keys=True)}

    def release(self) -> None:
        """Give the folder back, once nothing of the attempt runs any more."""
        self._ended.set()
        self._heart.join()
        # A full disk must not hide how the attempt ended: it is found dead without this too.
        with contextlib.suppress(OSError):
            if still_mine(self._folder, self.attempt.id):
                write_json(self._path, _content(self.attempt, released=True), mode=0o600)

    def __enter__(self) -> Ownership:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            try:
                os.utime(self._path)
            except FileNotFoundError:
                return  # replaced: the next owner clears away those before it
            except OSError:
                continue  # the file server is away; it may come back


def claim(folder: str | Path, attempt: Attempt) -> Ownership:
    """Make ``attempt`` the owner of a state folder.

    Where only the heartbeat can tell whether the present owner lives, this waits until the
    heartbeat moves or has been silent for ``LOST_SECONDS``.

    Raises:
        RlhfError: another attempt owns it and is alive.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    while True:
        number, owner = newest(folder)
        if owner is not None and lives(owner):
            raise RlhfError(
                "Another attempt works on this run.",
                where=folder,
                expected=f"one attempt at a time; the owner: {owner.attempt}",
                hint="let it end, or `rlhf recover` lists, awaits or cancels what still runs",
            )
        path = folder / f"owner-{number + 1:08d}.json"
        if _create(path, attempt):
            break
    for earlier in folder.glob("owner-*.json"):
        if earlier.name < path.name:
            earlier.unlink(missing_ok=True)
    return Ownership(folder, attempt, path)


def alive(owner: Owner) -> bool | None:
    """Whether an owner still runs; None when only its heartbeat can tell.

    SLURM's word on a job comes first: on a node that it has given up, processes may live on.
    """
    attempt, (job, restarts) = owner.attempt, slurm.this_job()
    if owner.released:
        return False
    if attempt.job and attempt.job == job:
        if attempt.restarts != restarts:
            return False  # an earlier run of this very job, which SLURM requeued
    elif attempt.job and (jobs := slurm.unfinished_jobs()) is not None:
        return attempt.job in jobs and jobs[attempt.job].state != slurm.PENDING
    if on_this_machine(attempt):
        return start_time(attempt.pid) == attempt.pid_started
    return None


def lives(owner: Owner) -> bool:
    """Like ``alive``, but where only the heartbeat can tell, watches it for up to a minute."""
    found = alive(owner)
    try:
        beat = owner.path.stat().st_mtime_ns
        while found is None:
            if owner.path.stat().st_mtime_ns != beat:
                found = True
            elif silence(owner) > LOST_SECONDS:
                found = False
            else:
                time.sleep(min(1.0, BEAT_SECONDS))
    except FileNotFoundError:
        return False  # another claimant replaced it: the next look finds that one
    return found


def on_this_machine(attempt: Attempt) -> bool:
    """Whether an attempt's process id means something here."""
    return attempt.machine == _machine()


def silence(owner: Owner) -> float:
    """Seconds since an owner's last heartbeat, by the file server's clock."""
    os.utime(owner.path.parent)
    return owner.path.parent.stat().st_mtime - owner.path.stat().st_mtime


def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def _content(attempt: Attempt, released: bool) -> dict[str, Any]:
    return {"attempt": dataclasses.asdict(attempt), "released": released}


def _create(path: Path, attempt: Attempt) -> bool:
    """Make an owner's file, whole; False when somebody else was faster."""
    aside = path.with_name(f".{path.name}.{attempt.id}")
    write_json(aside, _content(attempt, released=False), mode=0o600)
    try:
        os.link(aside, path)  # unlike a rename, it never replaces; NFS keeps to that too
    except FileExistsError:
        return False
    finally:
        aside.unlink()
    fsync_path(path.parent)
    return True
