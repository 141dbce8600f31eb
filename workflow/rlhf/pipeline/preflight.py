"""Checks before anything is submitted: does this site have what the jobs ask for?

SLURM's own commands are asked on the login node. Every problem is found, not only the first.
"""

from __future__ import annotations

import getpass
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rlhf.catalog import ONLINE, RULES
from rlhf.config.cluster import Rule
from rlhf.config.problems import suggest
from rlhf.config.schema import Config
from rlhf.errors import ClusterError, RlhfError
from rlhf.launch.images import find_runtime, require_image
from rlhf.pipeline.jobs import images
from rlhf.pipeline.plan import nearest_fit, plan, planned_jobs
from rlhf.pipeline.resources import least_seconds
from rlhf.pipeline.server_memory import large_servers
from rlhf.pipeline.site import Nodes, Partition, Site, read_gpus, read_site
from rlhf.serving.vllmserver import find_python

PROFILE = "profiles/slurm/profile.v9+.yaml"
LONGEST_POLL = 180  # seconds between two looks of Snakemake's SLURM plugin at its jobs


@dataclass(frozen=True)
class Request:
    """What the jobs of one rule ask SLURM for.

    Attributes:
        rule: the rule.
        account: whose budget pays; empty: not said.
        partition: one or more, with commas; empty: the default one.
        nodes: nodes.
        gpus: GPUs on each node.
        gpu_type: their type; empty: any.
        cpus: CPUs on each node.
        mem_mb: memory of each node, in MB.
        minutes: time limit.
    """

    rule: Rule
    account: str
    partition: str
    nodes: int
    gpus: int
    gpu_type: str
    cpus: int
    mem_mb: int
    minutes: int

    @classmethod
    def read(cls, rule: Rule, resources: Mapping[str, Any]) -> Request:
        """From a job's resources, as Snakemake evaluated them."""
        gres = read_gpus(str(resources.get("gres", "")))
        types = {str(resources["gpu_model"])} if resources.get("gpu_model") else set(gres)
        return cls(
            rule=rule,
            account=str(resources.get("slurm_account", "")),
            partition=str(resources.get("slurm_partition", "")),
            nodes=resources.get("nodes", 1),
            gpus=resources.get("gpu", 0) or sum(gres.values()),
            gpu_type=next(iter(types), ""),
            cpus=resources.get("cpus_per_task", resources["_cores"]),
            mem_mb=resources.get("mem_mb", 0),
            minutes=resources.get("runtime", 0),
        )


def check(
    config: Config,
    jobs: Iterable[tuple[Rule, str]],
    requests: Sequence[Request],
    status_command: str,
    gpu_cap: float,
) -> list[str]:
    """Refuse jobs that can't run here; what is worth a word though nothing is wrong.

    Args:
        config: the whole configuration.
        jobs: rule and first wildcard of all that are about to run.
        requests: what those of them that SLURM will run ask for.
        status_command: how Snakemake looks at its jobs, ``squeue`` or ``sacct``.
        gpu_cap: the profile's cap on the GPUs of all jobs together.

    Raises:
        ClusterError: names every problem.
    """
    problems: list[RlhfError] = []
    notes: list[str] = []
    found, tight = memory_problems(config, jobs := sorted(jobs))
    problems, notes = [*problems, *found], [*notes, *tight]
    if config.runtime.containers != "none":
        problems += image_problems(sorted({kind for job in jobs for kind in images(config, *job)}))
    if not requests:
        problems += host_problems(config, jobs, own_memory_gb())
    if config.runtime.containers == "none" and any(
        "sample" in images(config, *job) for job in jobs
    ):
        problems += sampler_problems()
    if requests:
        site = read_site()
        problems += site_problems(site, requests, config, status_command, gpu_cap)
        if not site.accounting:
            notes.append("This cluster keeps no accounting: squeue alone says how jobs ended.")
    if problems:
        raise ClusterError("\n".join(map(str, problems)))
    return notes


def sampler_problems() -> list[RlhfError]:
    """What is missing to sample with vLLM outside of images."""
    try:
        find_python()
    except RlhfError as error:
        return [error]
    return []


def memory_problems(
    config: Config, jobs: Iterable[tuple[Rule, str]]
) -> tuple[list[ClusterError], list[str]]:
    """Jobs that their GPUs are too small for; and words about those that hardly fit.

    Args:
        config: the whole configuration.
        jobs: rule and first wildcard of each.
    """
    problems, notes = [], []
    running = set(jobs)
    for rule, name in planned_jobs(config):
        if (rule, name.partition(".")[0]) not in running:
            continue
        if (section := RULES[rule].section) in ONLINE:
            for server in large_servers(config, section, name):
                if server.gb <= config.cluster.gpu_memory_gb:
                    notes.append(f"{server.what}: tight; more room with {server.changes}")
                    continue
                problems.append(
                    ClusterError(
                        f"{server.what}.",
                        where="cluster.server_gpus",
                        expected="80 % of the memory of a GPU, or of several",
                        hint=f"write {server.changes}",
                    )
                )
        planned = plan(config, rule, name)
        if planned.fits:
            continue
        change = nearest_fit(planned)
        where, size = f"{rule} {name}", planned.work.gpu_memory_gb
        if planned.peak_gb <= size:
            notes.append(f"{where} needs about {planned.peak_gb:.0f} of a GPU's {size:g} GB: tight"
                         + (f"; more room with {change}" if change else ""))  # fmt: skip
            continue
        problems.append(
            ClusterError(
                f"{where} needs about {planned.peak_gb:.0f} GB on each GPU, which has {size:g}.",
                where="cluster.gpu_memory_gb",
                expected="what `rlhf plan` lists, in 80 % of the memory of a GPU",
                hint=f"write {change}"
                if change
                else "no engine fits it: shorten "
                "tokenization.*.max_length or max_new_tokens, or take a smaller model",
            )
        )
    return problems, notes


def own_memory_gb() -> float:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def host_problems(
    config: Config, jobs: Iterable[tuple[Rule, str]], memory_gb: float
) -> Iterator[ClusterError]:
    """Jobs that keep more in the memory of the CPUs than this machine has; SLURM looks itself.

    Args:
        config: the whole configuration.
        jobs: rule and first wildcard of each.
        memory_gb: of this machine.
    """
    for rule, name in set(planned_jobs(config)) & set(jobs):
        planned = plan(config, rule, name)
        if planned.host_gb > memory_gb:
            kept = planned.setting.offload
            yield ClusterError(
                f"{rule} {name} keeps about {planned.host_gb:.0f} GB in the memory of the CPUs; "
                f"this machine has {memory_gb:.0f}.",
                where="cluster.offload",
                expected=f"that much memory for offload: {kept}",
                hint="train on more GPUs, which share it; or an adapter; or a smaller model",
            )


def site_problems(
    site: Site, requests: Iterable[Request], config: Config, status_command: str, gpu_cap: float
) -> Iterator[ClusterError]:
    """What SLURM would refuse, or would let wait for ever.

    Args:
        site: what SLURM says about itself.
        requests: what the jobs ask for.
        config: the whole configuration.
        status_command: how Snakemake looks at its jobs, ``squeue`` or ``sacct``.
        gpu_cap: the profile's cap on the GPUs of all jobs together.
    """
    requests = list(dict.fromkeys(requests))
    yield from status_problems(site, status_command)
    for account, rules in _grouped(requests, lambda one: one.account).items():
        yield from account_problems(site, account, rules)
    for partition, rules in _grouped(requests, lambda one: one.partition).items():
        yield from partition_problems(site, partition, rules)
    for request in requests:
        names = request.partition.split(",") if request.partition else [site.default]
        known = [site.partitions[name] for name in names if name in site.partitions]
        found = [list(_size_problems(partition, request)) for partition in known]
        yield from min(found, key=len, default=[])  # one partition that fits is enough
        yield from _limit_problems(request, config, gpu_cap)


def _grouped(requests: Iterable[Request], key: Callable[[Request], str]) -> dict[str, str]:
    """Value of the key → the rules that have it, with commas."""
    groups: dict[str, list[str]] = {}
    for request in requests:
        groups.setdefault(key(request), []).append(request.rule)
    return {value: ", ".join(dict.fromkeys(rules)) for value, rules in groups.items()}


def status_problems(site: Site, status_command: str) -> Iterator[ClusterError]:
    """Why Snakemake would not learn how its jobs ended."""
    if status_command != "squeue":
        if not site.accounting:
            yield ClusterError(
                "This cluster keeps no accounting, so sacct knows nothing of jobs.",
                where=f"{PROFILE}: slurm-status-command",
                expected="squeue",
                hint="write: slurm-status-command: squeue",
            )
    elif 0 < site.min_job_age <= LONGEST_POLL:
        yield ClusterError(
            f"squeue forgets a finished job after {site.min_job_age} s, and Snakemake may look"
            f" only every {LONGEST_POLL} s: it would wait for ever.",
            where=f"{PROFILE}: slurm-status-command",
            expected=f"MinJobAge above {LONGEST_POLL} s, or sacct",
            hint="write: slurm-status-command: sacct"
            if site.accounting
            else "ask the cluster's administrators to raise MinJobAge",
        )


def account_problems(site: Site, account: str, rules: str) -> Iterator[ClusterError]:
    """Why SLURM would not take an account; ``rules`` names those that give it."""
    where = f"{PROFILE}: slurm_account (for {rules})"
    yours = f"your accounts are: {', '.join(sorted(site.accounts))}"
    if not site.accounting:
        if account:
            yield ClusterError(
                f"This cluster keeps no accounts, but {account} is given.",
                where=where,
                expected="no slurm_account",
                hint="delete that line",
            )
    elif not site.accounts:
        if site.enforced:
            yield ClusterError(
                f"You ({getpass.getuser()}) have no account on this cluster, and it takes no job"
                " without one.",
                where=where,
                expected="an account",
                hint="ask the cluster's administrators for one",
            )
    elif not account:
        yield ClusterError(
            "No account is given.", where=where, expected=yours, hint="write one of them there"
        )
    elif unknown := set(re.split(r"[,\s]+", account.lower())) - site.accounts:
        yield ClusterError(
            f"You have no account {', '.join(sorted(unknown))} on this cluster.",
            where=where,
            expected=yours,
            hint="write one of them there",
        )


def partition_problems(site: Site, partition: str, rules: str) -> Iterator[ClusterError]:
    """Which partitions there are not; ``rules`` names those that give them."""
    where = f"{PROFILE}: slurm_partition (for {rules})"
    there = f"one of: {', '.join(sorted(site.partitions))}"
    if not partition and not site.default:
        yield ClusterError(
            "No partition is given, and this cluster has no default one.",
            where=where,
            expected=there,
            hint="write one of them there",
        )
    for name in filter(None, partition.split(",")):
        if name not in site.partitions:
            yield ClusterError(
                f"This cluster has no partition {name}.",
                where=where,
                expected=there,
                hint=suggest(name, site.partitions),
            )


def _size_problems(partition: Partition, request: Request) -> Iterator[ClusterError]:
    """The first thing that makes the nodes of a partition too small or too few."""
    rule, kinds = request.rule, list(partition.nodes)
    gpus = f"{request.gpu_type} GPUs".strip()
    measures: list[tuple[str, str, int, Callable[[Nodes], int]]] = [
        (gpus, "gpus_per_node", request.gpus, lambda one: one.gpus_of(request.gpu_type)),
        ("CPUs", "cpus", request.cpus, lambda one: one.cpus),
        ("MB of memory", "memory_gb", request.mem_mb, lambda one: one.mem_mb),
    ]
    for unit, key, asked, has in measures:
        most = max(has(one) for one in kinds)
        if asked > most:
            yield ClusterError(
                f"{rule} asks for {asked} {unit} on each node; partition {partition.name} has at"
                f" most {most}.",
                where=f"cluster.stages.{rule}.{key}",
                expected=f"{most} {unit} or fewer",
                hint="lower it, or choose another slurm_partition in the profile",
            )
            return
        kinds = [one for one in kinds if has(one) >= asked]
    there = min(sum(one.count for one in kinds), partition.max_nodes)
    if request.nodes > there:
        yield ClusterError(
            f"{rule} asks for {request.nodes} nodes; partition {partition.name} gives a job at"
            f" most {there:g} that are large enough.",
            where=f"cluster.stages.{rule}.nodes",
            expected=f"{there:g} or fewer",
            hint="lower it, or choose another slurm_partition in the profile",
        )
    if request.minutes > partition.max_minutes:
        hours = partition.max_minutes / 60
        yield ClusterError(
            f"{rule} asks for {request.minutes / 60:g} hours; partition {partition.name} allows"
            f" {hours:g}.",
            where="cluster.max_hours",
            expected=f"{hours:g} or fewer",
            hint="lower it: training saves before the limit and goes on in the next job",
        )


def _limit_problems(request: Request, config: Config, gpu_cap: float) -> Iterator[ClusterError]:
    rule, gpus = request.rule, request.nodes * request.gpus
    if gpus > gpu_cap:
        yield ClusterError(
            f"{rule} asks for {gpus} GPUs in all; the cap is {gpu_cap:g}.",
            where=f"{PROFILE}: resources: total_gpus",
            expected=f"{gpus} or more",
            hint="raise the cap, or lower cluster.nodes or cluster.gpus_per_node",
        )
    least = least_seconds(config)
    if RULES[rule].trains and 60 * request.minutes < least:
        yield ClusterError(
            f"The time limit of {rule}, {request.minutes} min, is shorter than one save.",
            where=f"cluster.stages.{rule}.hours",
            expected=f"at least {math.ceil(least / 60)} min: cluster.save_margin_seconds, and a"
            " save of a model of cluster.model_billions",
            hint="raise the limit",
        )


def image_problems(kinds: Iterable[str]) -> Iterator[RlhfError]:
    """What is missing to run in images.

    Args:
        kinds: the kinds of image that the jobs need.
    """
    needed: list[Callable[[], object]] = [find_runtime, *(partial(require_image, k) for k in kinds)]
    for find in needed:
        try:
            find()
        except RlhfError as problem:
            yield problem
