"""What jobs ask for: nodes, GPUs, CPUs, memory, time.

Nothing here changes a result, so it is in no stage's slice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rlhf.catalog import RULES, RUNS, TRAINING
from rlhf.config.base import Strict, key

if TYPE_CHECKING:
    from rlhf.config.schema import Config

    Rule = str
else:
    Rule = Literal[tuple(RULES)]

WEIGHTS_GB = 4.0  # of a billion parameters, in float32
STATE_GB = 16.0  # the same with a gradient and two moments of Adam each
SAVED_GB_PER_SECOND = 1.0  # a busy parallel file system


class StageConfig(Strict):
    """What the jobs of one stage ask for, if it differs from the others."""

    nodes: int | None = key(None, ge=1, about="nodes; training stages only")
    gpus_per_node: int | None = key(
        None, ge=0, about="GPUs on each node; `evaluate` and the stores use at most one"
    )
    processes_per_node: int | None = key(
        None, ge=1, about="ranks on each node without GPUs; training stages only"
    )
    cpus: int | None = key(
        None, ge=1, about="CPUs on each node; absent: the threads of all processes and servers"
    )
    memory_gb: float | None = key(
        None, gt=0, about="memory of each node; absent: from `model_billions`", unit="GB"
    )
    hours: float | None = key(
        None, gt=0, about="time limit; absent: from `model_billions`", unit="hours"
    )


class ClusterConfig(Strict):
    """What jobs ask for."""

    nodes: int = key(1, ge=1, about="nodes of each training stage")
    gpus_per_node: int = key(0, ge=0, about="GPUs on each node; 0: everything on the CPU")
    gpu_type: str = key(
        "", about="type of the GPUs, as SLURM names it; empty: any", pattern=r"^[A-Za-z0-9_.]*$"
    )
    processes_per_node: int = key(
        1, ge=1, about="ranks on each node without GPUs; with GPUs: one per GPU that no server has"
    )
    server_gpus: int = key(
        1, ge=0, about="GPUs of each model server of a run; 0: they share those of the policy"
    )
    model_billions: float = key(
        1.0,
        gt=0,
        about="size of the largest model: memory and time follow from it",
        unit="10⁹ parameters",
    )
    max_hours: float = key(
        24.0,
        gt=0,
        about="longest time limit to ask for: training continues in the next job",
        unit="hours",
    )
    save_margin_seconds: float = key(
        60.0,
        ge=0,
        about="minimum time reserved for saving before the end of an allocation",
        unit="seconds",
    )
    stages: dict[Rule, StageConfig] = key({}, about="stage → what its jobs ask for instead")


@dataclass(frozen=True)
class Resources:
    """What one job asks for.

    Attributes:
        nodes: nodes.
        gpus: GPUs on each node.
        processes: ranks on each node.
        servers: model servers on each node.
        server_gpus: how many of the GPUs each server has to itself.
        threads: CPU threads of each rank.
        cpus: CPUs on each node.
        mem_mb: memory of each node, in MB.
        runtime: time limit, in minutes.
    """

    nodes: int
    gpus: int
    processes: int
    servers: int
    server_gpus: int
    threads: int
    cpus: int
    mem_mb: int
    runtime: int


def stage_resources(config: Config, rule: Rule, name: str = "") -> Resources:
    """What a job asks for.

    Args:
        config: the whole configuration.
        rule: the job's rule.
        name: the job's first wildcard: a run, model, dataset or view; empty: any.
    """
    cluster, row = config.cluster, RULES[rule]
    size = cluster.model_billions
    own = {k: v for k, v in cluster.stages.get(rule, StageConfig()) if v is not None}
    requested: dict[str, Any] = dict(cluster) | own
    nodes, gpus = requested["nodes"], requested["gpus_per_node"]
    processes = gpus or requested["processes_per_node"]
    if not row.trains:
        nodes, gpus, processes = 1, min(gpus, int(row.gpu)), 1
    judges = len(row.servers)
    run = getattr(config, row.section).get(name) if judges else None
    servers = 0 if run and run.scoring == "local" else judges
    server_gpus = cluster.server_gpus if servers and gpus else 0
    processes -= servers * server_gpus
    threads = getattr(config.runtime, row.threads) if row.threads else 1
    memory_gb = row.memory_gb + row.models * WEIGHTS_GB * size
    if row.trains:
        memory_gb += _training_gb(size, processes, gpus, judges - servers, servers)
    hours = min(row.hours * (max(size, 1.0) if row.gpu else 1.0), cluster.max_hours)
    return Resources(
        nodes=nodes,
        gpus=gpus,
        processes=processes,
        servers=servers,
        server_gpus=server_gpus,
        threads=threads,
        cpus=own.get("cpus", processes * threads + servers * config.runtime.server_threads),
        mem_mb=round(1000 * own.get("memory_gb", memory_gb)),
        runtime=math.ceil(60 * own.get("hours", hours)),
    )


def _training_gb(size: float, ranks: int, gpus: int, judges: int, servers: int) -> float:
    """Memory that a node needs for training, beside what is common to all stages.

    On GPUs a rank holds its weights twice on their way there, on the CPU all of its training state
    and half as much again for activations; one state is gathered to be saved.

    Args:
        size: billions of parameters.
        ranks: training processes on the node.
        gpus: its GPUs.
        judges: models that every rank has to itself to score with.
        servers: model servers on the node.
    """
    model = WEIGHTS_GB * size
    rank = 4 + (2 * model if gpus else 1.5 * STATE_GB * size) + judges * model
    return ranks * rank + servers * (4 + 2 * model) + STATE_GB * size


def least_seconds(config: Config) -> float:
    """Shortest time limit in which a training job can take a step and save."""
    return config.cluster.save_margin_seconds + (
        STATE_GB * config.cluster.model_billions / SAVED_GB_PER_SECOND
    )


def cluster_problems(config: Config) -> Iterator[str]:
    """What can't be: one line for each, which starts with its key."""
    for rule, own in config.cluster.stages.items():
        where = f"cluster.stages.{rule}"
        if not RULES[rule].trains:
            for one in ("nodes", "processes_per_node"):
                if getattr(own, one) is not None:
                    yield f"{where}.{one}: only {', '.join(TRAINING)} use more than one process"
            most = int(RULES[rule].gpu)
            if (own.gpus_per_node or 0) > most:
                yield f"{where}.gpus_per_node: at most {most} for this stage"
    for section, row in RUNS.items():
        for name in getattr(config, section) if row.servers else ():
            run = stage_resources(config, row.rule, name)
            if run.processes < 1:
                yield (
                    f"cluster.server_gpus: {section}.{name} has {run.servers} servers; with "
                    f"{run.server_gpus} each they leave none of {run.gpus} GPUs for the policy: "
                    "write 0 to share them, or raise gpus_per_node"
                )
