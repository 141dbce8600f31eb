"""What a job needs of its GPUs, and which engine it gets.

The numbers are those of ``pipeline.memory``; here is what a configuration makes of them: how many
ranks, how long rows are, which models are there at one time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from rlhf.catalog import ONLINE, RULES, SECTIONS, STORES, subject
from rlhf.config.adapter import AdapterConfig
from rlhf.config.cluster import (
    EngineRequest,
    Layout,
    Rule,
    engine_request,
    own_values,
    stage_layout,
)
from rlhf.config.schema import Config
from rlhf.pipeline import memory
from rlhf.pipeline.memory import GB, Model, Pass, Setting
from rlhf.pipeline.shapes import model_shape
from rlhf.runtime.options import (
    SAMPLER_SHARE,
    AttentionChoice,
    EngineKind,
    EngineOptions,
    Shard,
)

FITS = 0.8  # of a GPU: what `auto` fills; the rest is for fragments, and for what is not counted
# Of models.generate: rows decoded together, and the room of their keys and values.
SAMPLED_ROWS, CACHE_SHARE, CPU_CACHE = 128, 0.6, 2.0**33
REPLIES = 2  # of a preference row that share a pass, at least
NODE_GPUS = 8  # that nodes usually have
GPUS = (16, 24, 32, 40, 48, 80, 94, 141, 192, 288)  # GB that GPUs have

Bytes = dict[str, float]
Phases = Mapping[str, Bytes]
Servers = dict[str, tuple[float, int]]


@dataclass(frozen=True)
class Work:
    """What a job does on each of its GPUs, whatever engine it has.

    Attributes:
        layout: how it is spread.
        trained: models that are trained.
        scoring: models that every rank has to itself to score with.
        served: models that servers keep on the same GPUs, by the bytes of a weight.
        sampler: share of a GPU's memory that a server takes that samples beside a rank.
        sampled: responses that all ranks sample, and tokens of each with its prompt; None: none.
        longest: tokens of the longest row, or of the rows that can't be in two passes.
        rows: rows of a batch of all ranks.
        micro_batch_tokens: padded tokens of a pass.
        narrow: whether matrix products are bfloat16 or float16.
        eager: whether attention keeps scores, in every family.
        held: models of which one is there at a time, where nothing is trained.
        width: bytes of their weights.
        gpu_memory_gb: memory of one GPU.
    """

    layout: Layout
    trained: tuple[Model, ...] = ()
    scoring: tuple[Model, ...] = ()
    served: tuple[tuple[Model, int], ...] = ()
    sampler: float = 0.0
    sampled: tuple[int, int] | None = None
    longest: int = 1
    rows: int = 1
    micro_batch_tokens: int = 1
    narrow: bool = True
    eager: bool = False
    held: tuple[Model, ...] = ()
    width: int = 4
    gpu_memory_gb: float = 80.0

    @property
    def gpus(self) -> int:
        """Over which a model that is not trained is spread; on a CPU, one place."""
        return max(1, self.layout.gpus)

    @property
    def ranks(self) -> int:
        """On all nodes."""
        return self.layout.nodes * self.layout.processes

    def largest_pass(self) -> Pass:
        """The largest forward and backward pass of a rank."""
        batch = math.ceil(self.rows / self.ranks) * self.longest
        tokens = max(self.longest, min(self.micro_batch_tokens, batch))
        return Pass(tokens, self.longest, self.narrow, self.eager)

    def sampling_bytes(self, policy: Model, beside: Bytes, width: int, share: float = 1.0) -> Bytes:
        """What sampling needs: rows that have no room beside the rest wait for their turn.

        Args:
            policy: the model that is sampled from.
            beside: what is there besides.
            width: bytes of its weights.
            share: of its layers that are on this GPU.
        """
        responses, columns = self.sampled or (0, 0)
        wanted = min(SAMPLED_ROWS, math.ceil(responses / self.ranks))
        row = share * memory.cache_bytes(policy.shape, columns, width)
        room = CPU_CACHE
        if self.layout.gpus:
            room = CACHE_SHARE * (FITS * self.gpu_memory_gb * GB - sum(beside.values()))
        rows = max(1, min(wanted, int(room / row)))
        logits = 12.0 * rows * policy.shape.vocabulary
        return beside | {"KV cache": rows * row, "logits": logits}


def phases(work: Work, setting: Setting) -> dict[str, Bytes]:
    """Bytes on a rank's GPU by component, in each phase of a job.

    Args:
        work: what is done.
        setting: how the engine keeps what is trained.
    """
    context: Bytes = {"context": memory.CONTEXT} if work.layout.gpus else {}
    if not work.trained:
        return _untrained(work, context)
    sharded = setting.kind in ("fsdp", "zero3")
    share = 1 / setting.ranks if sharded else 1
    beside: Bytes = {
        "scoring models": share * sum(model.weight_bytes for model in work.scoring),
        "model servers": sum(size * model.parameters for model, size in work.served),
        "sampler": work.sampler * work.gpu_memory_gb * GB,
    }
    shared = {name: size for name, size in beside.items() if size} | context
    found = {"training": memory.training_bytes(work.trained, setting, work.largest_pass()) | shared}
    if work.sampled:
        policy = work.trained[0]
        state = memory.state_bytes(work.trained, setting)
        width = 2 if work.layout.gpus else 4
        # On GPUs the copy is narrow; of weights of 4 bits there is none.
        copied = sharded or (work.layout.gpus and not policy.quantized)
        beside = {
            "weights": state["weights"],
            "moments": state["moments"],
            "sampling copy": width * policy.parameters if copied else 0,
        } | shared
        found["sampling"] = work.sampling_bytes(policy, beside, width)
    return found


def _untrained(work: Work, context: Bytes) -> dict[str, Bytes]:
    """Phases of an evaluation, or of a store's check: one model at a time, here or in a server."""
    held = [memory.held_bytes(model, work.width, work.gpus) for model in work.held]
    found = {"scoring": {"weights": max(size for size, _ in held)} | context}
    if work.sampled:
        beside, share = {"weights": held[0][0]} | context, held[0][1]
        found["sampling"] = work.sampling_bytes(work.held[0], beside, work.width, share)
    return found


def describe(config: Config, rule: Rule, name: str) -> Work:
    """What a job does on its GPUs.

    Args:
        config: the whole configuration.
        rule: the job's rule: one that trains or has work for a GPU.
        name: the run; of a store, ``KIND.NAME``.
    """
    layout, row, views = stage_layout(config, rule, name), RULES[rule], config.tokenization
    gpu, served = config.cluster.gpu_memory_gb, _served_width(config, layout)
    if not row.section:  # a store, of a model of another section
        kind, _, run = name.partition(".")
        model = _model(config, *subject(rule, kind, run), scored=kind == "reward")
        return Work(layout, held=(model,), width=served, gpu_memory_gb=gpu)
    run, prompt = getattr(config, row.section)[name], views.prompt.max_length
    if not row.trains:
        reward = config.parent(row.section, name, "reward")
        models = [_model(config, *config.start(row.section, name))]
        models += [_model(config, *reward, scored=True)] if reward else []
        sampled = run.max_prompts * run.samples_per_prompt, prompt + run.max_new_tokens
        width = 2 if layout.gpus else 4
        return Work(layout, sampled=sampled, held=tuple(models), width=width, gpu_memory_gb=gpu)
    layers, tokens = run.freeze_layers, config.runtime.micro_batch_tokens
    policy = _model(config, row.section, name, row.section == "reward", layers)
    narrow = run.precision != "float32"
    kept = narrow and layout.gpus > 0  # a CPU samples from it as it is
    policy = replace(_adapted(policy, run.adapter), narrow=kept)
    eager = engine_request(config, rule).attention == "eager"
    common = Work(
        layout, (policy,), micro_batch_tokens=tokens, narrow=narrow, eager=eager, gpu_memory_gb=gpu
    )
    if not row.online:
        longest = getattr(views, str(row.view)).max_length
        longest *= REPLIES if row.view == "preference" else 1
        return replace(common, longest=longest, rows=run.global_batch_size)
    judge = replace(_model(config, "reward", run.reward, scored=True), narrow=narrow, trains=False)
    value = getattr(run, "value", None)
    critic = (
        (
            _adapted(
                replace(judge, frozen_layers=layers, narrow=kept, trains=True),
                run.adapter if value.adapter else None,
            ),
        )
        if value and value.kind == "critic"
        else ()
    )
    reference = replace(_model(config, row.section, name), narrow=narrow, trains=False)
    together = layout.gpus and not layout.server_gpus
    columns = prompt + run.sampling.max_new_tokens
    return replace(
        common,
        trained=(policy, *critic),
        scoring=() if layout.servers else (judge,) if run.adapter else (judge, reference),
        served=((judge, served), (reference, served)) if layout.servers and together else (),
        sampler=SAMPLER_SHARE if layout.samplers and together else 0.0,
        sampled=None if layout.samplers else (run.rollout_batch_size, columns),
        longest=columns,
        rows=run.minibatch_size,
    )


def _adapted(model: Model, adapter: AdapterConfig | None) -> Model:
    if adapter is None:
        return model
    if adapter.kind == "prefix":
        return replace(model, prefix=adapter.virtual_tokens)
    return replace(model, rank=adapter.rank, quantized=adapter.quantize is not None)


def _served_width(config: Config, layout: Layout) -> int:
    """Bytes of a weight in a model store."""
    narrow = {"auto": layout.gpus > 0, "bfloat16": True, "float32": False}
    return 2 if narrow[config.store.dtype] else 4


def _model(
    config: Config, section: str, name: str, scored: bool = False, frozen_layers: int = 0
) -> Model:
    return Model(model_shape(config, config.base_model(section, name)), scored, frozen_layers)


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
    whole = any(model.quantized for model in work.trained)  # slices would not be of 4 bits
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


def server_gb(config: Config, section: str, name: str, size: float | None = None) -> Servers:
    """What each kind of model server with GPUs of its own needs there.

    Args:
        config: the whole configuration.
        section: of an on-policy run.
        name: the run's name.
        size: memory of one GPU, in GB; None: as configured.

    Returns:
        Kind → GB on each GPU, and over how many of them its model is spread: one, if it fits.
    """
    row, size = SECTIONS[section], size or config.cluster.gpu_memory_gb
    layout = stage_layout(config, row.rule, name)
    given = layout.server_gpus
    servers = {}
    for kind in row.servers if given and layout.servers else ():
        alone = _served_gb(config, section, name, kind, 1)
        spread = given > 1 and alone > FITS * size
        servers[kind] = (
            (_served_gb(config, section, name, kind, given), given) if spread else (alone, 1)
        )
    if given and layout.samplers:
        servers["sampler"] = (_sampler_gb(config, section, name, given), given)
    return servers


def spread_servers(config: Config, section: str, name: str) -> list[str]:
    """Kinds of model server whose model is spread over its GPUs: it is too large for one.

    Args:
        config: the whole configuration.
        section: of an on-policy run.
        name: the run's name.
    """
    servers = server_gb(config, section, name)
    return [kind for kind in SECTIONS[section].servers if servers.get(kind, (0, 1))[1] > 1]


def _served_gb(config: Config, section: str, name: str, kind: str, gpus: int) -> float:
    """GB of a model server on each of the GPUs that its model is spread over."""
    row, run = SECTIONS[section], getattr(config, section)[name]
    width = _served_width(config, stage_layout(config, row.rule, name))
    model = _model(config, STORES[kind], getattr(run, row.servers[kind]), scored=kind == "reward")
    inner, hidden = model.shape.inner, model.shape.hidden
    forward = config.store.max_batch_tokens * width * (4 * inner + 8 * hidden)
    weights, _ = memory.held_bytes(model, width, gpus)
    return (weights + forward + 12 * memory.CHUNK + memory.CONTEXT) / GB


def _sampler_gb(config: Config, section: str, name: str, gpus: int) -> float:
    """GB of a vLLM server on each of its GPUs: weights, and one row's keys and values."""
    run = getattr(config, section)[name]
    model = _model(config, *config.start(section, name))
    columns = config.tokenization.prompt.max_length + run.sampling.max_new_tokens
    width = 4 if run.precision == "float32" else 2
    held = width * model.parameters + memory.cache_bytes(model.shape, columns, width)
    return (held / gpus + memory.CONTEXT) / GB


@dataclass(frozen=True)
class LargeServer:
    """A model server that its GPUs are too small for.

    Attributes:
        what: which, what it needs, and what there is.
        gb: that it needs on a GPU.
        changes: of the configuration, each of which is enough.
    """

    what: str
    gb: float
    changes: str


def large_servers(config: Config, section: str, name: str) -> Iterator[LargeServer]:
    """The model servers of a run that need more than 80 % of their GPUs."""
    size, most = config.cluster.gpu_memory_gb, FITS * config.cluster.gpu_memory_gb
    given = stage_layout(config, SECTIONS[section].rule, name).server_gpus
    for kind, (gb, _) in server_gb(config, section, name).items():
        if gb <= most:
            continue
        sampler = kind == "sampler"
        larger = (
            gpus for gpus in range(given + 1, NODE_GPUS)
            if (_sampler_gb(config, section, name, gpus) if sampler
                else _served_gb(config, section, name, kind, gpus)) <= most
        )  # fmt: skip
        choices = []
        if config.store.dtype == "float32" and not sampler:
            choices.append("store.dtype: auto")
        choices += [f"cluster.server_gpus: {gpus}" for gpus in list(larger)[:1]]
        own = "sampling.sampler: loop" if sampler else "scoring: local"
        choices.append(f"{section}.{name}.{own}")
        what = f"{section}.{name}: the {kind} server needs {gb:.0f} GB on a GPU that has {size:g}"
        yield LargeServer(what, gb, ", or ".join(choices))


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
        for run in getattr(config, section).values() if row.servers else ():
            if run.scoring != "local":
                yield from ((kind, getattr(run, key)) for kind, key in row.servers.items())


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
