"""What jobs ask for: nodes, GPUs, CPUs, memory, time; and how training is spread over them.

Nothing here changes a result, so it is in no stage's slice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import field_validator

from rlhf.catalog import RULES, RUNS, TRAINING
from rlhf.config.base import Strict, key, named
from rlhf.runtime.options import AttentionChoice, Offload, Shard

if TYPE_CHECKING:
    from rlhf.config.schema import Config

    Rule = str
else:
    Rule = Literal[tuple(RULES)]

EngineChoice = Literal["auto", "replicated", "fsdp", "zero1", "zero2", "zero3"]
Checkpointing = Literal["auto", True, False]
# Engine → what it can keep in the memory of the CPUs.
OFFLOADS: dict[str, tuple[str, ...]] = {
    "auto": ("all",),
    "replicated": (),
    "fsdp": ("all",),
    "zero1": ("optimizer",),
    "zero2": ("optimizer",),
    "zero3": ("optimizer", "all"),
}


class EngineConfig(Strict):
    """How training is spread over GPUs."""

    @field_validator("activation_checkpointing", mode="before", check_fields=False)
    @classmethod
    def _of_text(cls, value: Any) -> Any:
        """`snakemake --config` makes text of all that stands in braces."""
        return {"true": True, "false": False}.get(value, value) if type(value) is str else value


class StageConfig(EngineConfig):
    """What the jobs of one stage ask for, if it differs from the others."""

    nodes: int | None = key(None, ge=1, about="nodes; training stages only")
    gpus_per_node: int | None = key(
        None,
        ge=0,
        about="GPUs on each node; `evaluate` and stores, absent: as few as their models fit",
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
    engine: EngineChoice | None = key(None, about="how ranks keep weights; training stages only")
    shard: Shard | None = key(None, about="over which ranks; training stages only")
    offload: Offload | None = key(None, about="what leaves the GPUs; training stages only")
    activation_checkpointing: Checkpointing | None = key(
        None, about="whether activations are computed again; training stages only"
    )
    attention: AttentionChoice | None = key(
        None, about="how attention is computed; training stages only"
    )


class ClusterConfig(EngineConfig):
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
        1,
        ge=0,
        about="GPUs of each model server of a run, the sampler's among them; 0: they share those "
        "of the policy",
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
    gpu_memory_gb: float = key(80.0, gt=0, about="memory of one GPU", unit="GB")
    engine: EngineChoice = key(
        "auto",
        about="how ranks keep weights, gradients and moments: `replicated`, whole on each; `fsdp`, "
        "in slices (FSDP2); `zero1`, `zero2`, `zero3`, by DeepSpeed; `auto`: replicated on CPUs "
        "and where that fits 80 % of `gpu_memory_gb`, else fsdp",
    )
    shard: Shard = key(
        "all",
        about="ranks over which fsdp spreads slices: `all`, or those of a `node`, with replicas "
        "between nodes",
    )
    offload: Offload = key(
        "none",
        about="what is in the memory of the CPUs between passes: the `optimizer` (ZeRO), or `all` "
        "(fsdp, zero3); `auto` engines also choose it by themselves, last of all",
    )
    activation_checkpointing: Checkpointing = key(
        "auto",
        about="compute activations again in the backward pass: about a third more computation, a "
        "fraction of the memory; `auto`: where it does not fit otherwise",
    )
    attention: AttentionChoice = key(
        "auto",
        about="how attention is computed: `flash` and `flex`, on GPUs, with rows in one sequence "
        "without padding; `sdpa`, torch's scaled dot products; `eager`, plain products; `auto`: "
        "on GPUs the first that works and agrees with `eager`, on CPUs as transformers has it",
    )
    stages: dict[Rule, StageConfig] = key({}, about="stage → what its jobs ask for instead")


@dataclass(frozen=True)
class Layout:
    """How a job is spread.

    Attributes:
        nodes: nodes.
        gpus: GPUs on each node.
        processes: ranks on each node.
        servers: model servers on each node that score.
        samplers: servers on each node that sample.
        server_gpus: how many of the GPUs each server of either kind has to itself.
    """

    nodes: int
    gpus: int
    processes: int
    servers: int
    samplers: int
    server_gpus: int


@dataclass(frozen=True)
class EngineRequest:
    """What a stage's configuration says of its engine; ``auto`` is not decided yet."""

    engine: EngineChoice
    shard: Shard
    offload: Offload
    activation_checkpointing: Checkpointing
    attention: AttentionChoice


def served_models(config: Config, section: str, name: str) -> dict[str, tuple[str, str]]:
    """The model servers that score for a run: what each is called → kind and name of its model.

    The first of a kind is called like the kind, the others ``reward2``, ``reward3``.

    Args:
        config: the whole configuration.
        section: the run's.
        name: the run's name.
    """
    run, servers = getattr(config, section)[name], {}
    for kind, attribute in RUNS[section].servers.items() if run.scoring != "local" else ():
        for number, model in enumerate(named(run, attribute), start=1):
            servers[f"{kind}{number}" if number > 1 else kind] = kind, model
    return servers


def own_values(config: Config, rule: Rule) -> dict[str, Any]:
    """What ``cluster.stages`` says of a stage."""
    own = config.cluster.stages.get(rule, StageConfig())
    return {name: value for name, value in own if value is not None}


def stage_layout(config: Config, rule: Rule, name: str = "") -> Layout:
    """How a job is spread over nodes and GPUs.

    One that trains nothing has a single GPU here; ``pipeline.plan`` gives it more, if need be.

    Args:
        config: the whole configuration.
        rule: the job's rule.
        name: the job's first wildcard: a run, model, dataset or view; empty: any.
    """
    cluster, row = config.cluster, RULES[rule]
    requested: dict[str, Any] = dict(cluster) | own_values(config, rule)
    nodes, gpus = requested["nodes"], requested["gpus_per_node"]
    processes = gpus or requested["processes_per_node"]
    if not row.trains:
        own = "gpus_per_node" in own_values(config, rule)
        nodes, gpus, processes = 1, gpus if own else min(gpus, int(row.gpu)), 1
    run = getattr(config, row.section).get(name) if row.servers else None
    servers = len(served_models(config, row.section, name)) if run else len(row.servers)
    samplers = int(bool(run and run.sampling.sampler == "vllm"))
    server_gpus = cluster.server_gpus if servers + samplers and gpus else 0
    processes -= (servers + samplers) * server_gpus
    return Layout(nodes, gpus, processes, servers, samplers, server_gpus)


def engine_request(config: Config, rule: Rule) -> EngineRequest:
    """What the configuration says of a training stage's engine."""
    requested = dict(config.cluster) | own_values(config, rule)
    return EngineRequest(**{name: requested[name] for name in EngineRequest.__dataclass_fields__})


def cluster_problems(config: Config) -> Iterator[str]:
    """What can't be: one line for each, which starts with its key."""
    for rule, own in config.cluster.stages.items():
        where = f"cluster.stages.{rule}"
        if not RULES[rule].trains:
            for key in ("nodes", "processes_per_node", *EngineRequest.__dataclass_fields__):
                if getattr(own, key) is not None:
                    yield f"{where}.{key}: only {', '.join(TRAINING)} use more than one process"
            if own.gpus_per_node and not RULES[rule].gpu:
                yield f"{where}.gpus_per_node: this stage has no work for a GPU"
    for section, row in RUNS.items():
        for name in getattr(config, section) if row.servers else ():
            run = stage_layout(config, row.rule, name)
            if run.processes < 1:
                yield (
                    f"cluster.server_gpus: {section}.{name} has {run.servers + run.samplers} "
                    "servers; with "
                    f"{run.server_gpus} each they leave none of {run.gpus} GPUs for the policy: "
                    "write 0 to share them, or raise gpus_per_node"
                )
            yield from _sampler_problems(config, section, name)
    yield from dict.fromkeys(one for rule in TRAINING for one in _engine_problems(config, rule))
    yield from _adapter_problems(config)
    yield from _optimizer_problems(config)


def _adapter_problems(config: Config) -> Iterator[str]:
    """Runs whose adapters do not go with how they would be carried out."""
    for section, row in RUNS.items():
        for name, run in getattr(config, section).items() if row.trains else ():
            asked = engine_request(config, row.rule)
            if not run.adapter:
                continue
            if run.adapter.kind == "prefix" and asked.activation_checkpointing is True:
                yield (
                    f"{section}.{name}.adapter.kind: activations after a prefix can't be computed "
                    "again; write activation_checkpointing: false"
                )
            if not run.adapter.quantize:
                continue
            where = f"{section}.{name}.adapter.quantize"
            if not stage_layout(config, row.rule, name).gpus:
                yield f"{where}: needs a GPU, and {row.rule} has none; raise gpus_per_node"
            elif asked.engine not in ("auto", "replicated") or asked.offload != "none":
                yield (
                    f"{where}: engine {asked.engine}, offload {asked.offload} would cut or move "
                    "weights of 4 bits; write engine: replicated, offload: none"
                )


def _optimizer_problems(config: Config) -> Iterator[str]:
    """Runs whose moments of 8 bits could not be had where they train."""
    for section, row in RUNS.items():
        for name, run in getattr(config, section).items() if row.trains else ():
            if run.optimizer.kind != "adamw_8bit":
                continue
            asked, where = engine_request(config, row.rule), f"{section}.{name}.optimizer.kind"
            if not stage_layout(config, row.rule, name).gpus:
                yield f"{where}: needs a GPU, and {row.rule} has none; raise gpus_per_node"
            elif asked.engine not in ("auto", "replicated") or asked.offload != "none":
                yield (
                    f"{where}: engine {asked.engine}, offload {asked.offload} would cut or move "
                    "moments of 8 bits; write engine: replicated, offload: none"
                )


def _sampler_problems(config: Config, section: str, name: str) -> Iterator[str]:
    """Why an on-policy run's sampler can't run."""
    sampler = getattr(config, section)[name].sampling.sampler
    where = f"{section}.{name}.sampling.sampler"
    if sampler == "cached" and not stage_layout(config, RUNS[section].rule, name).gpus:
        yield (
            f"{where}: `cached` keeps a share of a GPU's memory for its pages, and there is none; "
            "set cluster.gpus_per_node, or take `loop`"
        )
    adapter = getattr(config, section)[name].adapter
    if sampler != "loop" and adapter and (adapter.kind == "prefix" or adapter.quantize):
        what = "a prefix" if adapter.kind == "prefix" else "weights of 4 bits"
        yield f"{where}: {sampler!r} samples from whole weights, not from {what}; take `loop`"
    start = config.start(section, name)
    before = getattr(config, start[0])[start[1]].adapter
    if sampler == "vllm" and before and before.alone:
        yield (
            f"{where}: a server reads whole weights, and {'.'.join(start)} publishes its adapter "
            f"alone; write {'.'.join(start)}.adapter.publish: model, or take `loop`"
        )
    model = config.base_model(section, name)
    if sampler == "vllm" and config.models[model].trust_remote_code:
        yield f"{where}: a server does not run the code that models.{model} brings; take `loop`"


def _engine_problems(config: Config, rule: Rule) -> Iterator[str]:
    """Settings of a training stage's engine that exclude each other."""
    asked, own = engine_request(config, rule), own_values(config, rule)
    engine = asked.engine

    def where(key: str) -> str:
        return f"cluster.stages.{rule}.{key}" if key in own else f"cluster.{key}"

    if asked.offload != "none" and not stage_layout(config, rule).gpus:
        yield f"{where('offload')}: there is no GPU whose memory {asked.offload!r} could leave"
    elif asked.offload != "none" and asked.offload not in OFFLOADS[engine]:
        able = [name for name, kinds in OFFLOADS.items() if asked.offload in kinds]
        yield (
            f"{where('offload')}: engine {engine} can't offload {asked.offload!r}; "
            f"{', '.join(able)} can"
        )
    row = RULES[rule]
    if row.token_values and getattr(config, row.section) and engine.startswith("zero"):
        yield (
            f"{where('engine')}: {engine} does not keep what follows the trained weights, as the "
            f"targets of {row.title} do; write auto, replicated or fsdp under "
            f"cluster.stages.{rule}.engine"
        )
    if asked.attention in ("flash", "flex") and not stage_layout(config, rule).gpus:
        yield f"{where('attention')}: {asked.attention} needs GPUs; auto, sdpa, eager do not"
    if asked.shard == "node" and engine not in ("auto", "fsdp"):
        yield f"{where('shard')}: engine {engine} has no slices of a node; auto, fsdp have"
