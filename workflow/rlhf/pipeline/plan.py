"""What a job needs of its GPUs, and which engine it gets.

The numbers are those of ``pipeline.memory``; here is what a configuration makes of them: how many
ranks, how long rows are, which models are there at one time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from rlhf.catalog import ONLINE, RULES, SECTIONS, STORES, subject
from rlhf.config.cluster import EngineRequest, Layout, Rule, engine_request, stage_layout
from rlhf.config.schema import Config
from rlhf.pipeline import memory
from rlhf.pipeline.memory import GB, Model, Pass, Setting
from rlhf.pipeline.shapes import model_shape
from rlhf.runtime.options import SAMPLER_SHARE, EngineKind, EngineOptions, Shard

FITS = 0.8  # of a GPU: what `auto` fills; the rest is for fragments, and for what is not counted
# Of models.generate: rows decoded together, and the room of their keys and values.
SAMPLED_ROWS, CACHE_SHARE, CPU_CACHE = 128, 0.6, 2.0**33
REPLIES = 2  # of a preference row that share a pass, at least
GPUS = (16, 24, 32, 40, 48, 80, 94, 141, 192, 288)  # GB that GPUs have

Bytes = dict[str, float]
Phases = Mapping[str, Bytes]


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
        narrow: whether matrix products are bfloat16.
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
    held: tuple[Model, ...] = ()
    width: int = 4
    gpu_memory_gb: float = 80.0

    @property
    def ranks(self) -> int:
        """On all nodes."""
        return self.layout.nodes * self.layout.processes

    def largest_pass(self) -> Pass:
        """The largest forward and backward pass of a rank."""
        batch = math.ceil(self.rows / self.ranks) * self.longest
        tokens = max(self.longest, min(self.micro_batch_tokens, batch))
        return Pass(tokens, self.longest, self.narrow)

    def sampling_bytes(self, policy: Model, beside: Bytes, width: int) -> Bytes:
        """What sampling needs: rows that have no room beside the rest wait for their turn."""
        responses, columns = self.sampled or (0, 0)
        wanted = min(SAMPLED_ROWS, math.ceil(responses / self.ranks))
        row = memory.cache_bytes(policy.shape, columns, width)
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
    share = 4 / setting.ranks if sharded else 4
    beside: Bytes = {
        "scoring models": share * sum(model.parameters for model in work.scoring),
        "model servers": sum(size * model.parameters for model, size in work.served),
        "sampler": work.sampler * work.gpu_memory_gb * GB,
    }
    shared = {name: size for name, size in beside.items() if size} | context
    found = {"training": memory.training_bytes(work.trained, setting, work.largest_pass()) | shared}
    if work.sampled:
        policy = work.trained[0]
        state = memory.state_bytes(work.trained, setting)
        width = 2 if work.layout.gpus else 4
        copied = sharded or work.layout.gpus  # on GPUs the copy is narrow
        beside = {
            "weights": state["weights"],
            "moments": state["moments"],
            "sampling copy": width * policy.parameters if copied else 0,
        } | shared
        found["sampling"] = work.sampling_bytes(policy, beside, width)
    return found


def _untrained(work: Work, context: Bytes) -> dict[str, Bytes]:
    """Phases of an evaluation, or of a store's check: one model at a time, and a server."""
    sizes = [float(work.width * model.parameters) for model in work.held]
    served = sum(size * model.parameters for model, size in work.served)
    servers: Bytes = {"model servers": served} if served else {}
    found = {"scoring": {"weights": max(sizes)} | servers | context}
    if work.sampled:
        beside = {"weights": sizes[0]} | context
        found["sampling"] = work.sampling_bytes(work.held[0], beside, work.width)
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
        return Work(layout, held=(model,), served=((model, served),), width=served,
                    gpu_memory_gb=gpu)  # fmt: skip
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
    policy = replace(policy, rank=run.adapter.rank if run.adapter else 0)
    narrow = run.precision == "bfloat16"
    common = Work(layout, (policy,), micro_batch_tokens=tokens, narrow=narrow, gpu_memory_gb=gpu)
    if not row.online:
        longest = getattr(views, str(row.view)).max_length
        longest *= REPLIES if row.view == "preference" else 1
        return replace(common, longest=longest, rows=run.global_batch_size)
    judge = _model(config, "reward", run.reward, scored=True)
    value = getattr(run, "value", None)
    critic = (
        (replace(judge, frozen_layers=layers, rank=policy.rank),)
        if value and value.kind == "critic"
        else ()
    )
    reference = replace(policy, frozen_layers=0, rank=0)
    together = layout.gpus and not layout.server_gpus
    columns = prompt + run.sampling.max_new_tokens
    return replace(
        common,
        trained=(policy, *critic),
        scoring=() if layout.servers else (judge, reference),
        served=((judge, served), (reference, served)) if layout.servers and together else (),
        sampler=SAMPLER_SHARE if layout.samplers and together else 0.0,
        sampled=None if layout.samplers else (run.rollout_batch_size, columns),
        longest=columns,
        rows=run.minibatch_size,
    )


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
        decided: keys of ``cluster`` that ``auto`` decided → what for.
    """

    rule: Rule
    name: str
    work: Work
    setting: Setting
    shard: Shard
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
        return EngineOptions(one.kind, self.shard, one.offload, one.checkpointing)

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

    If none does, the last: it needs least.

    Args:
        config: the whole configuration.
        rule: the job's rule.
        name: see ``describe``.
        gpu_memory_gb: of one GPU; None: as configured.
    """
    work = describe(config, rule, name)
    if gpu_memory_gb is not None:
        work = replace(work, gpu_memory_gb=gpu_memory_gb)
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
    return Plan(rule, name, work, setting, asked.shard, decided)


def _ladder(asked: EngineRequest, work: Work) -> Iterator[Setting]:
    """Settings that the configuration allows, from the quickest to that which needs least."""
    layout, again = work.layout, asked.activation_checkpointing
    ranks = layout.processes if asked.shard == "node" else work.ranks
    choices = (False, True) if again == "auto" else (again,)
    if asked.engine != "auto":
        for choice in choices:
            yield Setting(asked.engine, ranks, asked.offload, choice)
        return
    kinds: list[EngineKind] = ["replicated"]
    if asked.offload != "none":
        kinds = ["fsdp"]
    elif layout.gpus and work.ranks > 1:
        kinds = ["replicated", "fsdp"]
    for choice in choices:
        for kind in kinds:
            if kind == "fsdp" or not (choice and len(choices) > 1 and len(kinds) > 1):
                yield Setting(kind, ranks, asked.offload, choice)
    if layout.gpus and asked.offload == "none":
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
    open_request = EngineRequest("auto", planned.shard, "none", "auto")
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


def server_gb(config: Config, section: str, name: str) -> dict[str, float]:
    """Kind of a model server that has GPUs of its own → GB that it needs there.

    Args:
        config: the whole configuration.
        section: of an on-policy run.
        name: the run's name.
    """
    row, run = SECTIONS[section], getattr(config, section)[name]
    layout = stage_layout(config, row.rule, name)
    if not layout.server_gpus:
        return {}
    width = _served_width(config, layout)
    sizes: dict[str, float] = {}
    for kind, key in row.servers.items() if layout.servers else ():
        model = _model(config, STORES[kind], getattr(run, key), scored=kind == "reward")
        inner, hidden = model.shape.inner, model.shape.hidden
        forward = config.store.max_batch_tokens * width * (4 * inner + 8 * hidden)
        logits = 12 * memory.CHUNK
        sizes[kind] = (width * model.parameters + forward + logits + memory.CONTEXT) / GB
    if layout.samplers:
        model = _model(config, *config.start(section, name))
        columns = config.tokenization.prompt.max_length + run.sampling.max_new_tokens
        width = 2 if run.precision == "bfloat16" else 4
        held = width * model.parameters + memory.cache_bytes(model.shape, columns, width)
        sizes["sampler"] = (held / layout.server_gpus + memory.CONTEXT) / GB
    return sizes


def large_servers(config: Config, section: str, name: str) -> Iterator[str]:
    """A line for each model server of a run that its GPU is too small for."""
    size = config.cluster.gpu_memory_gb
    for kind, gb in server_gb(config, section, name).items():
        if gb > FITS * size:
            narrower = "store.dtype: auto, or " if config.store.dtype == "float32" else ""
            advice = f"{narrower}{section}.{name}.scoring: local"
            if kind == "sampler":
                advice = f"raise cluster.server_gpus, or {section}.{name}.sampling.sampler: loop"
            yield (
                f"{section}.{name}: the {kind} server needs {gb:.0f} GB, and its GPU has {size:g};"
                f" {advice}"
            )


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
    served = [gb for section in ONLINE for name in getattr(config, section)
              for gb in server_gb(config, section, name).values()]  # fmt: skip
    size = _least(config, training, max(served, default=0))
    found = [_size(config, f"{cluster.nodes * cluster.gpus_per_node} ×", size, training, served)]
    for rule in dict.fromkeys(rule for rule, _ in jobs if not RULES[rule].trains):
        own = [job for job in jobs if job[0] == rule]
        alone = _least(config, own)
        if size is None or alone is None or alone > size:
            found.append(f"{rule} {_size(config, '1 ×', alone, own)}")
    return "; ".join(found)


def _least(config: Config, jobs: list[tuple[Rule, str]], served: float = 0) -> int | None:
    """Memory of the smallest GPUs that all of these jobs fit, and a server of ``served`` GB."""
    sizes = (size for size in GPUS if served <= FITS * size)
    return next((s for s in sizes if all(plan(config, *job, s).fits for job in jobs)), None)


def _size(config: Config, count: str, size: int | None, jobs: list[tuple[Rule, str]],
          served: Sequence[float] = ()) -> str:  # fmt: skip
    if size is not None:
        return f"{count} {size} GB"
    needs = [plan(config, *job, GPUS[-1]).peak_gb for job in jobs]
    return f"none ({max(*needs, *served, 0):.0f} GB)"
