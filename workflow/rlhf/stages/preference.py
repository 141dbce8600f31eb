"""What the stages share that train a policy on given replies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.algorithms.replies import ReferenceLogprobs
from rlhf.config.offline import OfflineConfig
from rlhf.data.mixture import Mixture
from rlhf.models.load import load_token_scorer, load_tokenizer
from rlhf.models.roots import TokenScorer
from rlhf.stages.model_needs import check_tokenized
from rlhf.stages.stage import Stage
from rlhf.stages.training import (
    adapt,
    finish,
    machine_facts,
    mixture,
    own_base,
    publish_model,
    regularize,
    tokenizer_facts,
    validation,
)
from rlhf.training import distributed
from rlhf.training.attention import attention_facts
from rlhf.training.batches import check_batches
from rlhf.training.engine.open import open_engine
from rlhf.training.engine.protocol import Engine
from rlhf.training.loop import Objective, Prepared, train

MEASURES = ("validation_loss", "validation_accuracy", "validation_kendall_tau")


@dataclass(frozen=True)
class Policy:
    """A policy that is about to be trained, and its rows.

    Attributes:
        start: folder of the model that it starts as.
        model: its root.
        engine: what trains it.
        data: its training rows.
        held_out: its held-out rows.
        threads: of each process.
        facts: what is known of its tokenizer.
    """

    start: Path
    model: TokenScorer
    engine: Engine
    data: Mixture
    held_out: Mixture
    threads: int
    facts: dict[str, Any]


def open_policy(
    stage: Stage,
    config: OfflineConfig,
    threads: int,
    role: str,
    check: Callable[[Path], None] = lambda _start: None,
) -> Policy:
    """Load the policy and its rows, and hand it to an engine.

    Args:
        stage: the stage.
        config: the run's configuration.
        threads: of each process; what ``begin`` returned.
        role: of the input that the policy starts as.
        check: refuses a model that a run of the configuration can't be done with.

    Raises:
        ConfigError: the model, the rows or the batches don't fit.
        DataError: there is nothing to train on.
    """
    check_batches(stage.section, stage.name, config, distributed.world_size())
    facts = tokenizer_facts(stage, role, "data")
    start = stage.folder(role) / "model"
    check(start)
    check_tokenized(stage, start)
    model = load_token_scorer(start, dtype="auto")
    model.freeze(config.freeze_layers)
    adapt(stage, model, config.adapter, config.seed, config.precision)
    regularize(stage, model, config)
    model.compute_in(config.precision)
    data, held_out = (mixture(stage, config.data, split) for split in ("train", "validation"))
    rates = {"": config.optimizer.learning_rate}
    engine = open_engine(model, rates, config.optimizer, stage.engine)
    return Policy(start, model, engine, data, held_out, threads, facts)


def reference_of(
    stage: Stage, policy: Policy, sets: Iterable[Iterable[dict[str, Any]]]
) -> ReferenceLogprobs:
    """The reference of a policy: what it starts as, of all rows in some sets."""
    shares = policy.model.shares_prompts
    return ReferenceLogprobs(policy.engine, tuple(sets), shares, stage.micro_batch_tokens)


def learn(
    stage: Stage,
    config: OfflineConfig,
    policy: Policy,
    objective: Objective,
    prepared: Prepared | None = None,
    *,
    enrich: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = lambda rows: rows,
    measures: tuple[str, ...] = MEASURES,
    counts: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Train, then publish ``model/`` and ``metrics.jsonl``, and write the manifest.

    Args:
        stage: the stage.
        config: the run's configuration.
        policy: from ``open_policy``.
        objective: the loss.
        prepared: what the objective needs of the weights that training starts from.
        enrich: see ``train``.
        measures: figures of the last validation that sum the run up.
        counts: for the manifest, beside those of the rows.
        facts: for the manifest, beside those of tokenizer and machine.
    """
    engine, data, held_out = policy.engine, policy.data, policy.held_out
    finished = train(
        engine,
        objective,
        data,
        config,
        stage.run_options(policy.threads),
        stage.micro_batch_tokens,
        lambda: validation(stage, engine, objective, data, held_out, config, enrich),
        prepared,
        enrich,
    )
    base, tokenizer = own_base(config.adapter, policy.start), load_tokenizer(policy.start)
    publish_model(engine, policy.model, tokenizer, stage.outputs["model"], base)
    known = policy.facts | machine_facts(policy.threads) | attention_facts(policy.model)
    known |= dict(facts or {})
    finish(stage, finished, data, held_out, finished.last_metrics(*measures), known, counts)
