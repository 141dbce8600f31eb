"""What a job does on its GPUs: which models are there at one time, how long rows are, how many.

Read from a configuration; the bytes are those of ``pipeline.memory``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from rlhf.catalog import RULES, SCORING, SECTIONS, subject
from rlhf.config.adapter import AdapterConfig
from rlhf.config.cluster import Layout, Rule, engine_request, stage_layout
from rlhf.config.schema import Config
from rlhf.pipeline import memory
from rlhf.pipeline.memory import GB, Model, Pass, Setting
from rlhf.pipeline.shapes import model_shape
from rlhf.runtime.options import SAMPLER_SHARE

FITS = 0.8  # of a GPU: what `auto` fills; the rest is for fragments, and for what is not counted
# Of models.generate: rows decoded together, and the room of their keys and values.
SAMPLED_ROWS, CACHE_SHARE, CPU_CACHE = 128, 0.6, 2.0**33
REPLIES = 2  # of a preference row that share a pass, at least
NODE_GPUS = 8  # that nodes usually have

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
    if not RULES[rule].section:  # a store, of a model of another section
        return _checked(config, rule, name)
    return _trained(config, rule, name) if RULES[rule].trains else _evaluated(config, rule, name)


def _checked(config: Config, rule: Rule, name: str) -> Work:
    layout = stage_layout(config, rule, name)
    kind, _, run = name.partition(".")
    model = model_of(config, *subject(rule, kind, run), scored=kind == "reward")
    width = served_width(config, layout)
    return Work(layout, held=(model,), width=width, gpu_memory_gb=config.cluster.gpu_memory_gb)


def _evaluated(config: Config, rule: Rule, name: str) -> Work:
    layout, section = stage_layout(config, rule, name), RULES[rule].section
    run, prompt = getattr(config, section)[name], config.tokenization.prompt.max_length
    scoring = (config.parent(section, name, key) for key in SCORING)
    start = config.start(section, name)
    models = [replace(model_of(config, *start), q_heads=_q_heads(config, *start))]
    models += [model_of(config, *reward, scored=True) for reward in scoring if reward]
    return Work(
        layout,
        sampled=(run.max_prompts * run.samples_per_prompt, prompt + run.max_new_tokens),
        held=tuple(models),
        width=2 if layout.gpus else 4,
        gpu_memory_gb=config.cluster.gpu_memory_gb,
    )


def _trained(config: Config, rule: Rule, name: str) -> Work:
    layout, row, views = stage_layout(config, rule, name), RULES[rule], config.tokenization
    run = getattr(config, row.section)[name]
    narrow = run.precision != "float32"
    kept = narrow and layout.gpus > 0  # a CPU samples from it as it is
    start = model_of(config, row.section, name, row.section == "reward", run.freeze_layers)
    if getattr(run, "train", "all") == "head":
        start = replace(start, frozen_layers=start.shape.layers)
    policy = replace(
        _adapted(start, run.adapter),
        narrow=kept,
        averaged=run.ema is not None,
        narrow_moments=run.optimizer.kind == "adamw_8bit",
    )
    common = Work(
        layout,
        (policy,),
        micro_batch_tokens=config.runtime.micro_batch_tokens,
        narrow=narrow,
        eager=engine_request(config, rule).attention == "eager",
        gpu_memory_gb=config.cluster.gpu_memory_gb,
    )
    if not row.online:
        policy = replace(policy, q_heads=_q_heads(config, row.section, name))
        longest = getattr(views, str(row.view)).max_length
        longest *= REPLIES if row.view == "preference" else 1
        return replace(common, trained=(policy,), longest=longest, rows=run.global_batch_size)
    rewards = [model_of(config, *each, scored=True)
               for each in config.parents(row.section, name, "reward")]  # fmt: skip
    value = getattr(run, "value", None)
    critic: tuple[Model, ...] = ()
    plain = model_of(config, row.section, name)
    if value and value.kind == "critic":
        own = rewards[0] if value.start == "reward" else replace(plain, scored=True)
        whole = replace(own, frozen_layers=run.freeze_layers, narrow=kept)
        critic = (
            replace(
                _adapted(whole, run.adapter if value.adapter else None),
                narrow_moments=policy.narrow_moments,
            ),
        )
    if value and value.kind == "branch":
        upper = replace(_upper(plain, value.layers, head=False), scored=True)
        critic = (replace(upper, narrow_moments=policy.narrow_moments),)
    *rewards, reference = (
        replace(model, narrow=narrow, trains=False) for model in (*rewards, plain)
    )
    if run.reference == "frozen_branch":
        layers = plain.shape.layers - run.freeze_layers
        reference = replace(_upper(plain, layers, head=True), trains=False)
    together = layout.gpus and not layout.server_gpus
    columns = views.prompt.max_length + run.sampling.max_new_tokens
    mixed = views.conversation.max_length if getattr(run, "ptx", None) else 0
    width = served_width(config, layout)
    return replace(
        common,
        trained=(policy, *critic),
        scoring=() if layout.servers else (*rewards, *(() if run.adapter else (reference,))),
        served=tuple((model, width) for model in (*rewards, reference))
        if layout.servers and together
        else (),
        sampler=SAMPLER_SHARE if layout.samplers and together else 0.0,
        sampled=None if layout.samplers else (run.rollout_batch_size, columns),
        longest=max(columns, mixed),
        rows=run.minibatch_size,
    )


def _q_heads(config: Config, section: str, name: str) -> int:
    """How many heads a run learns the values of tokens by."""
    if not SECTIONS[section].token_values:
        return 0
    return 2 if getattr(config, section)[name].two_qs else 1


def _adapted(model: Model, adapter: AdapterConfig | None) -> Model:
    if adapter is None:
        return model
    if adapter.kind == "prefix":
        return replace(model, prefix=adapter.virtual_tokens)
    return replace(model, rank=adapter.rank, quantized=adapter.quantize is not None)


def _upper(model: Model, layers: int, head: bool) -> Model:
    """Copies of a model's upper layers and last norm, and of its head, beside the model."""
    shape = model.shape
    other = shape.hidden + (shape.head_parameters if head else 0)
    vocabulary = shape.vocabulary if head else 0  # there are no other embeddings
    copies = replace(shape, layers=layers, other_parameters=other, vocabulary=vocabulary)
    return replace(model, shape=copies)


def served_width(config: Config, layout: Layout) -> int:
    """Bytes of a weight in a model store."""
    narrow = {"auto": layout.gpus > 0, "bfloat16": True, "float32": False}
    return 2 if narrow[config.store.dtype] else 4


def model_of(
    config: Config, section: str, name: str, scored: bool = False, frozen_layers: int = 0
) -> Model:
    """The base model of a run.

    Args:
        config: the whole configuration.
        section: the run's.
        name: the run's name.
        scored: whether a score takes the place of the output head.
        frozen_layers: see ``Model``.
    """
    return Model(model_shape(config, config.base_model(section, name)), scored, frozen_layers)
