"""SLURM as a login node sees it."""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf.core.documents import read_document
from rlhf.doctor.check import Check, failed
from rlhf.errors import ConfigError, RlhfError
from rlhf.pipeline.site import Partition, Site, read_site

PROFILE = Path("profiles/slurm/profile.v9+.yaml")
ON_A_CLUSTER = "on a cluster, call this on a login node; elsewhere use `--profile local`"


def check_cluster() -> Iterator[Check]:
    """Is SLURM there, and does it know the profile's account and partition?"""
    if not shutil.which("sinfo"):
        yield Check("SLURM", "warning", "no SLURM commands in the PATH", ON_A_CLUSTER)
        return
    try:
        site = read_site()
    except RlhfError as error:
        yield failed("SLURM", error)
        return
    version = subprocess.run(["sinfo", "--version"], capture_output=True, text=True).stdout
    yield Check("SLURM", "ok", f"answers; {version.strip() or 'version unknown'}")
    yield _accounting(site)
    yield Check("partitions", "ok", "; ".join(map(_describe, site.partitions.values())))
    try:
        profile = read_profile()
        given = default_resources(profile)
    except RlhfError as error:
        yield failed("profile", error)
        return
    yield from _profile(site, given, str(profile.get("slurm-status-command", "squeue")))


def read_profile(path: Path = PROFILE) -> dict[str, Any]:
    """The profile for clusters; empty when there is none.

    Raises:
        ConfigError: it is not YAML, or holds something else than keys and values.
    """
    profile = read_document(path, "profile").values if path.exists() else {}
    if not isinstance(profile, dict | None):
        raise ConfigError(
            "The profile is no mapping.", where=path, expected="keys and values, as in `jobs: 20`"
        )
    return profile or {}


def default_resources(profile: dict[str, Any]) -> dict[str, str]:
    """Account and partition in a profile, under the plugin's names."""
    given = profile.get("default-resources") or {}
    if isinstance(given, list):  # Snakemake takes NAME=VALUE as well
        given = {name: value for name, _, value in (str(one).partition("=") for one in given)}
    if not isinstance(given, dict):
        raise ConfigError(
            "The profile's resources are no mapping.",
            where=f"{PROFILE}: default-resources",
            expected="keys and values, as in `slurm_account: lab`",
        )
    found = {name: given.get(name) for name in ("slurm_account", "slurm_partition")}
    # Snakemake reads them as Python, so they may have quotes of their own
    return {k: str(v).strip("'\"") for k, v in found.items() if v not in (None, "")}


def _accounting(site: Site) -> Check:
    if not site.accounting:
        return Check("accounting", "ok", "none: squeue alone says how jobs ended")
    accounts = ", ".join(sorted(site.accounts)) or "none for you"
    enforced = " (every job needs one)" if site.enforced else ""
    return Check("accounting", "ok", f"accounts: {accounts}{enforced}")


def _describe(partition: Partition) -> str:
    nodes = sum(kind.count for kind in partition.nodes)
    pairs = {(type_, count) for kind in partition.nodes for type_, count in kind.gpus.items()}
    gpus = "/".join(f"{count} {f'{type_} GPUs'.strip()}" for type_, count in sorted(pairs))
    kinds = f" of {gpus}" if gpus else ""
    minutes = partition.max_minutes
    limit = "no limit" if math.isinf(minutes) else f"at most {minutes / 60:g} h"
    return f"{partition.name}: {nodes} nodes{kinds}, {limit}"


def _profile(site: Site, given: dict[str, str], status: str) -> Iterator[Check]:
    """What Snakemake would be refused, or would wait for without end."""
    from rlhf.pipeline.preflight import account_problems, partition_problems, status_problems

    account, partition = given.get("slurm_account", ""), given.get("slurm_partition", "")
    looks = {
        "account": (account_problems(site, account, "all jobs"), account or "none is needed"),
        "partition": (
            partition_problems(site, partition, "all jobs"),
            partition or f"{site.default}, the default",
        ),
        "job status": (status_problems(site, status), f"by {status}"),
    }
    for name, (problems, found) in looks.items():
        problem = next(problems, None)
        yield Check(name, "ok", found) if problem is None else failed(name, problem)
