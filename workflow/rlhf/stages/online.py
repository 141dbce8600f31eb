"""What the stages of on-policy methods share: an SFT policy is trained against a reward model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers

from rlhf.config.online import OnlineConfig
from rlhf.core.digest import canonical_json
from rlhf.core.files import write_atomic
from rlhf.errors import ConfigError
from rlhf.models import devices
from rlhf.models.load import load_token_scorer, load_tokenizer
from rlhf.models.quantized import is_quantized
from rlhf.models.roots import Actor, ActorCritic, TokenScorer
from rlhf.models.sampling_check import check_sampling
from rlhf.online.algorithm import Algorithm, Mixed
from rlhf.online.cached_sampler import CachedSampler
from rlhf.online.loop import OnlineTrainer
from rlhf.online.prompts import PromptStream
from rlhf.online.reference import AdapterOff, Reference, ReferenceModel, ServedReference
from rlhf.online.sampler import ModelSampler, ReplicaSampler, Sampler
from rlhf.online.served_sampler import ServedSampler
from rlhf.runtime.deadline import stop_requested
from rlhf.serving.vllm_client import VllmClient
from rlhf.serving.vllm_wire import policy_identity
from rlhf.stages.decoding import decoding_of
from rlhf.stages.model_needs import check_tokenized
from rlhf.stages.rewards import build_reward, check_rewards, reward_folders
from rlhf.stages.servers import announced, client
from rlhf.stages.stage import Stage
from rlhf.stages.training import (
    adapt,
    begin,
    machine_facts,
    messages_of,
    mixture,
    own_base,
    publish_model,
    tokenizer_facts,
)
from rlhf.training import distributed
from rlhf.training.attention import attention_facts, choose_attention
from rlhf.training.batches import check_rollouts
from rlhf.training.engine.open import open_engine
from rlhf.training.engine.protocol import Engine

MEASURES = ("reward", "kl", "kl_coefficient", "response_length", "eos_rate")


def prepare(stage: Stage, config: OnlineConfig) -> dict[str, Any]:
    """Join the ranks and check what the stage was given; facts for the manifest.

    Raises:
        ConfigError: there are fewer prompts than ranks, or rows are too long for a model.
        IntegrityError: the inputs were made with different tokenizers or templates, or the file
            of a reward function has changed.
    """
    threads = begin(stage.deterministic)
    check_rollouts(stage.section, stage.name, config, distributed.world_size())
    mixed = [role for role in ("ptx",) if role in stage.inputs]
    facts = tokenizer_facts(stage, "sft", "reward", "data", *mixed)
    key = f"{stage.section}.{stage.name}.sampling.max_new_tokens"
    for folder in (stage.folder("sft") / "model", *reward_folders(stage)):
        check_tokenized(stage, folder, new=(key, config.sampling.max_new_tokens))
    check_rewards(stage, config)
    return facts | machine_facts(threads)


def load_policy(stage: Stage, config: OnlineConfig) -> TokenScorer:
    """The SFT model, as it is trained from here on.

    Raises:
        ConfigError: it can't be sampled from.
    """
    folder = stage.folder("sft") / "model"
    policy = load_token_scorer(folder, dtype="auto")
    check_sampling(policy, folder)
    policy.freeze(config.freeze_layers)
    if config.reference == "frozen_branch":
        policy.keep_start(config.freeze_layers)
    adapt(stage, policy, config.adapter, config.seed, config.precision)
    policy.compute_in(config.precision)
    return policy


def train(
    stage: Stage,
    config: OnlineConfig,
    algorithm: Algorithm,
    actor: Actor | ActorCritic,
    rates: Mapping[str, float],
    facts: dict[str, Any],
    mixed: Mixed | None = None,
) -> OnlineTrainer:
    """Train, then publish ``model/``, ``metrics.jsonl`` and ``samples.jsonl``.

    Args:
        stage: the stage.
        config: its configuration.
        algorithm: the method.
        actor: what is trained.
        rates: prefix of the actor's parameters → peak learning rate.
        facts: what ``prepare`` found for the manifest; the sampler's version is added.
        mixed: what is learned beside the rollouts.
    """
    tokenizer = load_tokenizer(stage.folder("sft") / "model")
    engine = open_engine(actor, rates, config.optimizer, stage.engine)
    reward = build_reward(stage, config, engine, tokenizer)
    reference = _reference(stage, config, engine, actor.policy)
    sampler, sampled_by = _sampler(stage, config, engine, actor, tokenizer)
    facts |= sampled_by
    trainer = OnlineTrainer(
        algorithm,
        engine,
        sampler,
        reward,
        reference,
        PromptStream(mixture(stage, config.data, "train"), config.seed),
        tokenizer,
        config,
        stage.run_options(facts["threads"]),
        stage.micro_batch_tokens,
        mixed,
    )
    finished = trainer.train()
    base = own_base(config.adapter, stage.folder("sft") / "model")
    publish_model(engine, actor.policy, tokenizer, stage.outputs["model"], base, prefix="policy.")
    finished.publish(metrics=stage.outputs["metrics"])
    if distributed.rank() == 0:
        samples = finished.journals["samples"].records()
        pairs = zip(samples, messages_of(stage, samples), strict=True)
        lines = [canonical_json(sample | {"prompt": prompt}) for sample, prompt in pairs]
        write_atomic(stage.outputs["samples"], "".join(f"{line}\n" for line in lines))
    return trainer


def train_policy(stage: Stage, config: OnlineConfig, algorithm: Algorithm) -> None:
    """Train a policy by a method without a value function, from preparing to the manifest."""
    facts = prepare(stage, config)
    actor = Actor(load_policy(stage, config), config.sampling.temperature)
    rates = {"policy.": config.optimizer.learning_rate}
    trainer = train(stage, config, algorithm, actor, rates, facts)
    finish(stage, trainer, facts | attention_facts(actor))


def finish(stage: Stage, trainer: OnlineTrainer, facts: dict[str, Any]) -> None:
    """Write the manifest, and leave the ranks."""
    if distributed.rank() == 0:
        stage.finish(
            counts={"prompts": len(trainer.prompts), "updates": trainer.config.updates},
            metrics=trainer.run.last_metrics(*MEASURES),
            facts=facts,
        )
        trainer.run.mark_published()
    distributed.finish()


def _sampler(
    stage: Stage,
    config: OnlineConfig,
    engine: Engine,
    actor: Actor | ActorCritic,
    tokenizer: Any,
) -> tuple[Sampler, dict[str, str]]:
    """What samples, and its version for the manifest where it is not this program's own.

    ``loop`` takes the policy itself; or a copy, where a rank holds only a part of it, or on a GPU.
    There it is narrow if the GPU has bfloat16, and else wide, as frozen weights are not.

    Raises:
        ConfigError: `cached` without a GPU.
        ServingError: no sampler was announced, or it does not answer.
        IntegrityError: it was started with another policy.
    """
    longest, temperature = config.sampling.max_new_tokens, config.sampling.temperature
    eos_id, decoding = tokenizer.eos_token_id, decoding_of(config.sampling, tokenizer)
    dtype = devices.own_dtype()
    if config.sampling.sampler == "vllm":
        endpoint, certificates = announced(stage, "sampler", "sampling.sampler: loop")
        identity = policy_identity(stage.folder("sft") / "model")
        vllm = VllmClient(endpoint, identity, certificates, ending=stop_requested)
        version = vllm.handshake()
        folder = certificates.folder.with_name("weights")  # in the launcher's scratch folder
        served = ServedSampler(
            vllm, folder, actor.policy, "policy.", eos_id, longest, temperature,
            getattr(torch, config.precision), decoding,
        )  # fmt: skip
        return served, {"sampler": f"vllm {version}"}
    if config.sampling.sampler == "cached":
        if engine.device.type != "cuda":
            raise ConfigError(
                "`cached` keeps a share of a GPU's memory for its pages, and this process has no "
                "GPU.",
                where=f"{stage.section}.{stage.name}.sampling.sampler",
                expected="a GPU, or `loop`",
                hint="set cluster.gpus_per_node, or `sampling.sampler: loop`",
            )
        paged = CachedSampler(
            actor.policy, "policy.", eos_id, longest, temperature, dtype, decoding=decoding
        )
        return paged, {"sampler": f"transformers {transformers.__version__}"}
    if engine.sharded or (engine.device.type != "cpu" and not is_quantized(actor.policy.model)):
        copied = ReplicaSampler(
            actor.policy, "policy.", eos_id, longest, temperature, dtype, decoding
        )
        return copied, {}
    return ModelSampler(actor.policy, eos_id, longest, temperature, decoding), {}


def _reference(
    stage: Stage, config: OnlineConfig, engine: Engine, policy: TokenScorer
) -> Reference:
    """An in-process model, or a client that has checked that its server holds the same model.

    In the process, a policy with an adapter or a frozen branch is its own reference.

    Raises:
        ServingError: no server was announced, or it holds another model.
    """
    folder, temperature = stage.folder("sft") / "model", config.sampling.temperature
    tokens = stage.micro_batch_tokens
    if config.scoring != "local":
        return ServedReference(client(stage, "reference", folder), temperature)
    if config.adapter or policy.start is not None:
        return AdapterOff(engine, policy, temperature, tokens)
    start = load_token_scorer(folder, dtype="auto")
    start.compute_in(config.precision)
    choose_attention(start, stage.engine.attention)
    return ReferenceModel(engine.frozen(start), temperature, tokens)
