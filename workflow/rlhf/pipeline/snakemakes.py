"""Snakemake processes that run this workflow ("heads"): announced, so that others can find them.

Snakemake's own lock says that there was a head, not whether there still is one.
"""

from __future__ import annotations

import atexit
import shutil
from pathlib import Path

from rlhf.runtime.fence import Owner, owner_of
from rlhf.runtime.ownership import claim, lives, new_attempt

FOLDER = Path("heads")  # below .snakemake


def announce(snakemake_folder: Path) -> None:
    """Announce this process until it ends; one that is killed leaves its record behind."""
    attempt = new_attempt()
    folder = snakemake_folder / FOLDER / attempt.id
    owned = claim(folder, attempt)

    def withdraw() -> None:
        owned.release()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(withdraw)


def announced(snakemake_folder: Path) -> list[Owner]:
    """Heads that have not withdrawn, alive or not."""
    owners = [owner_of(folder) for folder in sorted((snakemake_folder / FOLDER).glob("*"))]
    return [owner for owner in owners if owner is not None]


def living(snakemake_folder: Path) -> list[Owner]:
    """Heads that are alive; the records of those that are not are cleared away.

    Watches the heartbeat of a head on another machine, for up to a minute.
    """
    alive = []
    for owner in announced(snakemake_folder):
        if lives(owner):
            alive.append(owner)
        else:
            shutil.rmtree(owner.path.parent, ignore_errors=True)
    return alive
