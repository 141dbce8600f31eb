"""What a job asks a cluster for: CPUs, memory and time beside nodes and GPUs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlhf.catalog import RULES
from rlhf.config.base import named
from rlhf.config.cluster import Layout, Rule, own_values, stage_layout
from rlhf.config.schema import Config
from rlhf.pipeline.memory import Model, Setting, state_bytes
from rlhf.pipeline.plan import plan, planned_jobs
from rlhf.pipeline.shapes import shape_of_size

WEIGHTS_GB = 4.0  # of a billion parameters, in float32
STATE_GB = 16.0  # the same with a gradient and two moments of Adam each
SAVED_GB_PER_SECOND = 1.0  # a busy parallel file system
# Of a rank: the libraries; and one file of a saved state, as tensors and as bytes.
LIBRARIES_GB, WRITING_GB = 4.0, 4.0


@dataclass(frozen=True)
class Resources(Layout):
    """What one job asks for, beside its layout.

    Attributes:
        threads: CPU threads of each rank.
        cpus: CPUs on each node.
        mem_mb: memory of each node, in MB.
        runtime: time limit, in minutes.
    """

    threads: int
    cpus: int
    mem_mb: int
    runtime: int


def stage_resources(config: Config, rule: Rule, name: str = "") -> Resources:
    """What a job asks for.

    Args:
        config: the whole configuration.
        rule: the job's rule.
        name: the job's wildcards, joined by dots: a run, or ``KIND.NAME`` of a store; empty: any.
    """
    row, layout, own = RULES[rule], stage_layout(config, rule, name), own_values(config, rule)
    if not row.trains and (rule, name) in planned_jobs(config):
        layout = plan(config, rule, name).work.layout
    size = config.cluster.model_billions
    threads = getattr(config.runtime, row.threads) if row.threads else 1
    # Tensors go from mapped files to GPUs one at a time.
    models = min(row.models, 1) if row.gpu and layout.gpus else row.models
    memory_gb = row.memory_gb + models * WEIGHTS_GB * size
    if row.trains:
        runs = getattr(config, row.section)
        run = name if name in runs else next(iter(runs), None)
        setting = plan(config, rule, run).setting if run else Setting()
        keys = row.servers.values()
        scoring = sum(len(named(runs[run], key)) for key in keys) if run else len(row.servers)
        memory_gb += training_gb(size, layout, max(0, scoring - layout.servers), setting)
    hours = min(row.hours * (max(size, 1.0) if row.gpu else 1.0), config.cluster.max_hours)
    servers = (layout.servers + layout.samplers) * config.runtime.server_threads
    return Resources(
        **vars(layout),
        threads=threads,
        cpus=own.get("cpus", layout.processes * threads + servers),
        mem_mb=round(1000 * own.get("memory_gb", memory_gb)),
        runtime=math.ceil(60 * own.get("hours", hours)),
    )


def training_gb(size: float, layout: Layout, judges: int, setting: Setting) -> float:
    """Memory that a node needs for training, beside what is common to all stages.

    Weights are mapped from their files, once for all ranks of a node, and go to the GPUs tensor by
    tensor. There is what was offloaded; on the CPU all that a rank holds, and half as much again
    for activations. A state is saved in files of bounded size.

    Args:
        size: billions of parameters.
        layout: of the job.
        judges: models that every rank has to itself to score with.
        setting: how the engine keeps what is trained.
    """
    ranks, weights = layout.processes, WEIGHTS_GB * size
    mapped = (1 + judges) * weights
    # A server maps its weights and holds a copy; a sampler also reads what is handed over.
    served = layout.servers * (LIBRARIES_GB + 2 * weights)
    served += layout.samplers * (LIBRARIES_GB + 3 * weights)
    state = state_bytes([Model(shape_of_size(size))], setting)
    if layout.gpus:
        held = state["host"] / 1e9
    else:
        whole = 1 if setting.kind == "replicated" else setting.ranks
        held = 1.5 * sum(state.values()) / 1e9 + judges * weights / whole
    writing = min(WRITING_GB, STATE_GB * size)
    return ranks * (LIBRARIES_GB + writing + held) + mapped + served


def least_seconds(config: Config) -> float:
    """Shortest time limit in which a training job can take a step and save."""
    return config.cluster.save_margin_seconds + (
        STATE_GB * config.cluster.model_billions / SAVED_GB_PER_SECOND
    )
