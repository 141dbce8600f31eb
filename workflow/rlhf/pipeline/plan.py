"""How a job is carried out: which engine it gets, whether that fits its GPUs, and what would."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from rlhf.catalog import ONLINE, RULES, SECTIONS
from rlhf.config.cluster import EngineRequest, Rule, engine_request, own_values, served_models
from rlhf.config.schema import Config
from rlhf.pipeline import memory
from rlhf.pipeline.memory import GB, Setting
from rlhf.pipeline.server_memory import server_gb
from rlhf.pipeline.work import FITS, NODE_GPUS, Bytes, Phases, Work, describe, phases
from rlhf.runtime.options import AttentionChoice, EngineKind, EngineOptions, Shard

GPUS = (16, 24, 32, 40, 48, 80, 94, 141, 192, 288)  # GB that GPUs have


@dataclass(frozen=True)
class Plan:
    """A job on its GPUs.

    Attributes:
        rule: the job's rule.
        name: the run; of a store, ``KIND.NAME``.
        work: what is done.
        setting: how the engine keeps what is trained.
        shard: over which ranks.
        attention: how it is computed.
        decided: keys of ``cluster`` that ``auto`` decided → what for.
    """

    rule: Rule
    name: str
    work: Work
    setting: Setting
    shard: Shard
    attention: AttentionChoice
    decided: Mapping[str, object]

    @cached_property
    def phases(self) -> dict[str, Bytes]:
        """Bytes on a rank's GPU by component, in each phase."""
        return phases(self.work, self.setting)

    @property
    def peak_gb(self) -> float:
        """Of the phase that needs most."""
        return peak_gb(self.phases)

    @property
    def fits(self) -> bool:
        """Whether the GPUs are large enough, if there are any."""
        return not self.work.layout.gpus or _fits(self.work, self.setting)

    @property
    def engine(self) -> EngineOptions:
        """What the training stage is told."""
        one = self.setting
        return EngineOptions(one.kind, self.shard, one.offload, one.checkpointing, self.attention)

    @property
    def host_gb(self) -> float:
        """Of a node, what was offloaded to it."""
        state = memory.state_bytes(self.work.trained, self.setting)
        return self.work.layout.processes * state["host"] / GB


def _fits(work: Work, setting: Setting) -> bool:
    return peak_gb(phases(work, setting)) <= FITS * work.gpu_memory_gb


def peak_gb(found: Phases) -> float:
    """Of the phase that needs most."""
    return max(sum(components.values()) for components in found.values()) / GB


def plan(config: Config, rule: Rule, name: str, gpu_memory_gb: float | None = None) -> Plan:
    """How a job is carried out: of what ``auto`` leaves open, the first setting that fits.

    If none does, the last: it needs least. One that trains nothing gets as few GPUs of a node as
    its models fit, unless the configuration says how many.

    Args:
        config: the whole configuration.
        rule: the job's rule.
        name: see ``describe``.
        gpu_memory_gb: of one GPU; None: as configured.
    """
    work = describe(config, rule, name)
    if gpu_memory_gb is not None:
        work = replace(work, gpu_memory_gb=gpu_memory_gb)
    if not work.trained and work.layout.gpus and "gpus_per_node" not in own_values(config, rule):
        choices = [_on_gpus(work, n) for n in range(1, config.cluster.gpus_per_node + 1)]
        work = next((one for one in choices if _fits(one, Setting())), choices[-1])
    asked = engine_request(config, rule)
    ladder = list(_ladder(asked, work)) if work.trained else [Setting()]
    fitting = (one for one in ladder if _fits(work, one))
    setting = next(fitting, ladder[-1]) if work.layout.gpus else ladder[0]
    decided: dict[str, object] = {}
    if work.trained and asked.engine == "auto":
        decided["engine"] = setting.kind
        if asked.offload == "none":
            decided["offload"] = setting.offload
    if work.trained and asked.activation_checkpointing == "auto":
        decided["activation_checkpointing"] = setting.checkpointing
    return Plan(rule, name, work, setting, asked.shard, asked.attention, decided)


def _on_gpus(work: Work, gpus: int) -> Work:
    return replace(work, layout=replace(work.layout, gpus=gpus))


def _ladder(asked: EngineRequest, work: Work) -> Iterator[Setting]:
    """Settings that the configuration allows, from the quickest to that which needs least."""
    layout, again = work.layout, asked.activation_checkpointing
    ranks = layout.processes if asked.shard == "node" else work.ranks
    choices = (False, True) if again == "auto" else (again,)
    if again == "auto" and any(model.prefix for model in work.trained):
        choices = (False,)  # it would be dropped
    if asked.engine != "auto":
        for choice in choices:
            yield Setting(asked.engine, ranks, asked.offload, choice)
        return
    kinds: list[EngineKind] = ["replicated"]
    # Slices would not be of 4 bits, nor their moments of 8.
    whole = any(model.quantized or model.narrow_moments for model in work.trained)
    if asked.offload != "none":
        kinds = ["fsdp"]
    elif layout.gpus and work.ranks > 1 and not whole:
        kinds = ["replicated", "fsdp"]
    for choice in choices:
        for kind in kinds:
            if kind == "fsdp" or not (choice and len(choices) > 1 and len(kinds) > 1):
                yield Setting(kind, ranks, asked.offload, choice)
    if layout.gpus and asked.offload == "none" and not whole:
        yield Setting("fsdp", ranks, "all", choices[-1])


def nearest_fit(planned: Plan) -> str:
    """The smallest change of the configuration with which a job fits; empty: there is none.

    Args:
        planned: a job that does not fit.
    """
    return next((change for change in _changes(planned) if change), "")


def _changes(planned: Plan) -> Iterator[str]:
    """Changes with which a job fits: another engine, smaller passes, larger GPUs."""
    work = planned.work
    open_request = EngineRequest("auto", planned.shard, "none", "auto", planned.attention)
    settings = [*_ladder(open_request, work)] if work.trained else []
    least = settings[-1] if settings else planned.setting

    def change(other: Work, setting: Setting, *keys: str) -> str:
        written = (*keys, *_written(planned, setting))
        return ", ".join(written) if _fits(other, setting) else ""

    for setting in settings:
        yield change(work, setting)
    tokens = work.micro_batch_tokens
    while work.trained and tokens > work.longest:
        tokens //= 2
        smaller = replace(work, micro_batch_tokens=tokens)
        for setting in (planned.setting, least):
            yield change(smaller, setting, f"runtime.micro_batch_tokens: {tokens}")
    for gpus in range(work.layout.gpus + 1, NODE_GPUS + 1) if not work.trained else ():
        key = f"cluster.stages.{planned.rule}.gpus_per_node: {gpus}"
        yield change(_on_gpus(work, gpus), planned.setting, key)
    for size in GPUS:
        if size > work.gpu_memory_gb:
            larger = replace(work, gpu_memory_gb=size)
            yield change(larger, least, f"cluster.gpu_memory_gb: {size}")


def _written(planned: Plan, new: Setting) -> Iterator[str]:
    """Keys of the engine that have to be changed for another setting."""
    old = planned.setting
    for key, before, value in (
        ("engine", old.kind, new.kind),
        ("offload", old.offload, new.offload),
        ("activation_checkpointing", old.checkpointing, new.checkpointing),
    ):
        if before != value and key not in planned.decided:
            yield f"cluster.{key}: {str(value).lower()}"


def planned_jobs(config: Config) -> Iterator[tuple[Rule, str]]:
    """Rule and name of all jobs that train or have work for a GPU, in the order of the stages."""
    for rule, row in RULES.items():
        if row.gpu and not row.section:
            for kind, name in dict.fromkeys(_stores(config)):
                yield rule, f"{kind}.{name}"
        elif row.trains or row.gpu:
            for name in getattr(config, row.section):
                yield rule, name


def _stores(config: Config) -> Iterator[tuple[str, str]]:
    for section, row in SECTIONS.items():
        for name in getattr(config, section) if row.servers else ():
            yield from served_models(config, section, name).values()


def all_plans(config: Config) -> list[Plan]:
    """Of all jobs that the configuration names."""
    return [plan(config, *job) for job in planned_jobs(config)]


def claim(config: Config) -> str:
    """What a configuration fits: GPUs for all of its training, and what needs larger ones.

    Such as ``8 × 80 GB; evaluate 1 × 141 GB``, each the least memory that GPUs have and that is
    enough; or ``none`` and how much is needed, if there is no such GPU.

    Args:
        config: the whole configuration.
    """
    cluster, jobs = config.cluster, [*planned_jobs(config)]
    training = [job for job in jobs if RULES[job[0]].trains]
    size = _least(config, training)
    found = [_size(config, size, training, cluster.nodes * cluster.gpus_per_node)]
    for rule in dict.fromkeys(rule for rule, _ in jobs if not RULES[rule].trains):
        own = [job for job in jobs if job[0] == rule]
        alone = _least(config, own)
        if size is None or alone is None or alone > size:
            gpus = max(plan(config, *job, alone).work.gpus for job in own)
            found.append(f"{rule} {_size(config, alone, own, gpus)}")
    return "; ".join(found)


def _least(config: Config, jobs: list[tuple[Rule, str]]) -> int | None:
    """Memory of the smallest GPUs that all of these jobs fit, and their model servers."""
    return next((size for size in GPUS if _needed(config, jobs, size) <= FITS * size), None)


def _needed(config: Config, jobs: list[tuple[Rule, str]], size: int) -> float:
    """GB of the job, or of the model server, that needs most of GPUs with ``size`` GB."""
    needs = [plan(config, *job, size).peak_gb for job in jobs]
    for rule, name in jobs:
        section = RULES[rule].section
        if section in ONLINE:
            needs += [gb for gb, _ in server_gb(config, section, name, size).values()]
    return max(needs, default=0)


def _size(config: Config, size: int | None, jobs: list[tuple[Rule, str]], gpus: int) -> str:
    if size is not None:
        return f"{gpus} × {size} GB"
    return f"none ({_needed(config, jobs, GPUS[-1]):.0f} GB)"
