"""What SLURM says about a site: partitions, nodes, accounts."""

from __future__ import annotations

import getpass
import math
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from rlhf.errors import ClusterError


@dataclass(frozen=True)
class Nodes:
    """Nodes of a partition that are alike."""

    count: int
    gpus: Mapping[str, int]  # type (empty: none is named) → number
    cpus: int
    mem_mb: int

    def gpus_of(self, type_: str) -> int:
        """GPUs of a type, or of any type."""
        return self.gpus.get(type_, 0) if type_ else sum(self.gpus.values())


@dataclass(frozen=True)
class Partition:
    """A partition: its kinds of nodes, and the largest job that it takes."""

    name: str
    nodes: tuple[Nodes, ...]
    max_minutes: float
    max_nodes: float


@dataclass(frozen=True)
class Site:
    """What SLURM says about itself.

    Attributes:
        partitions: by name.
        default: name of the default partition; empty: there is none.
        accounting: whether there is a database of accounts and jobs.
        enforced: whether a job needs an account.
        accounts: of this user, in lower case.
        min_job_age: seconds after which ``squeue`` forgets a finished job; 0: never.
    """

    partitions: Mapping[str, Partition]
    default: str
    accounting: bool
    enforced: bool
    accounts: frozenset[str]
    min_job_age: int


def read_site() -> Site:
    """Ask SLURM.

    Raises:
        ClusterError: there is no SLURM here, or it does not answer.
    """
    pairs = (line.partition("=") for line in _ask("scontrol", "show", "config").splitlines())
    settings = {name.strip(): value.strip() for name, _, value in pairs}
    accounting = settings.get("AccountingStorageType", "").endswith("slurmdbd")
    whose = ("user", getpass.getuser(), "format=account")
    accounts = _ask("sacctmgr", "-nPs", "show", *whose) if accounting else ""
    partitions, default = _read_partitions(_ask("sinfo", "-he", "-o", "%P|%D|%G|%c|%m|%l|%s"))
    return Site(
        partitions=partitions,
        default=default,
        accounting=accounting,
        enforced="associations" in settings.get("AccountingStorageEnforce", ""),
        accounts=frozenset(accounts.lower().split()),
        min_job_age=int(settings.get("MinJobAge", "300").split()[0]),
    )


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        trouble = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        trouble = str(error)
    if trouble:
        raise ClusterError(
            f"SLURM does not answer: {trouble}",
            where=" ".join(command),
            expected="a login node of a cluster",
            hint="run snakemake there, or with --profile local on this machine",
        )
    return done.stdout


def _read_partitions(listed: str) -> tuple[dict[str, Partition], str]:
    nodes: dict[str, list[Nodes]] = {}
    limits: dict[str, tuple[float, float]] = {}
    default = ""
    for line in listed.splitlines():
        name, count, gres, cpus, memory, time, size = line.split("|")
        if name.endswith("*"):
            name = default = name[:-1]
        kind = Nodes(int(count), read_gpus(gres), int(cpus), int(memory))
        nodes.setdefault(name, []).append(kind)
        limits[name] = _minutes(time), float(size.split("-")[-1].replace("infinite", "inf"))
    return {name: Partition(name, tuple(nodes[name]), *limits[name]) for name in nodes}, default


def read_gpus(gres: str) -> dict[str, int]:
    """``gpu:h200:4(S:0-1),shard:8`` → ``{"h200": 4}``."""
    found = re.findall(r"(?:^|,)gpu(?::([^:,(]+))?:(\d+)(?=[,(]|$)", gres)
    return {type_: int(count) for type_, count in found}


def _minutes(text: str) -> float:
    """``1-12:00:00``, ``30:00`` or ``infinite`` → minutes."""
    if not text[0].isdigit():
        return math.inf
    days, _, clock = text.rpartition("-")
    hours, minutes, seconds = ([0, 0] + [int(part) for part in clock.split(":")])[-3:]
    return 1440 * int(days or 0) + 60 * hours + minutes + seconds / 60
