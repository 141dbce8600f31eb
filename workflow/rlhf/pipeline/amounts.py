"""How much work a training run is: tokens, floating-point operations, bytes on the disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf import paths
from rlhf.catalog import RULES
from rlhf.config.schema import Config
from rlhf.core.files import read_json
from rlhf.pipeline.plan import Plan
from rlhf.provenance.manifest import MANIFEST

STATES = 2  # that training keeps of a run


def training_tokens(config: Config, planned: Plan, results: Path = paths.RESULTS) -> float | None:
    """Tokens that a run trains on, all epochs; None: they are not tokenized yet.

    Of an on-policy run what it has at most: every prompt and response is as long as it may be.

    Args:
        config: the whole configuration.
        planned: a training job.
        results: folder of all artifacts.
    """
    row = RULES[planned.rule]
    run = getattr(config, row.section)[planned.name]
    if row.online:
        return run.updates * run.rollout_batch_size * planned.work.longest * run.epochs
    model, tokens = config.base_model(row.section, planned.name), 0.0
    for dataset, share in run.data.items():
        path = paths.tokenized(str(row.view), model, dataset, results) / MANIFEST
        if not path.is_file():
            return None
        tokens += _taken(read_json(path)["counts"]["train"], share)
    return run.epochs * tokens


def _taken(counts: Mapping[str, Any], share: Any) -> float:
    """Tokens that a run takes of a dataset in an epoch, if its rows are of like lengths."""
    if share.size is not None and counts["rows"]:
        return counts["tokens"] * share.size / counts["rows"]
    return counts["tokens"] * share.fraction


def training_flops(config: Config, planned: Plan, tokens: float) -> float:
    """Floating-point operations: 2 a parameter and token forward, 4 backward.

    Kaplan et al. 2020 (arXiv 2001.08361), section 2.1; 2 more with checkpointing. An on-policy run
    also samples its responses, and evaluates them under the policy, the reference and the reward
    model.

    Args:
        config: the whole configuration.
        planned: a training job.
        tokens: that it trains on.
    """
    row = RULES[planned.rule]
    trained = planned.work.trained
    each = sum(2 * model.parameters + 4 * model.trained for model in trained)
    if planned.setting.checkpointing:
        each += 2 * sum(model.parameters for model in trained)
    if not row.online:
        return each * tokens
    epochs = getattr(config, row.section)[planned.name].epochs
    return tokens * (each + 2 * 4 * trained[0].parameters / epochs)


def disk_bytes(planned: Plan) -> tuple[float, float]:
    """Of what a training job publishes, and of the states that it keeps to resume from.

    Weights are float32; a state has them, if they are trained, with two moments. Of heads for the
    values of tokens their copies are published, and are in a state too.

    Args:
        planned: a training job.
    """
    models = planned.work.trained
    published = 4 * sum(model.parameters - model.targets for model in models)
    return published, STATES * sum(12 * model.trained + 4 * model.targets for model in models)
