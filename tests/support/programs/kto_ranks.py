"""A small KTO run, whose last batch leaves a rank of two without rows; see ``dpo_ranks``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rlhf.algorithms.kto import KlEstimate, KtoObjective, Mismatches
from rlhf.algorithms.replies import ReferenceLogprobs
from rlhf.config.kto import KtoConfig
from rlhf.data.mixture import Mixture
from rlhf.runtime.options import RunOptions
from rlhf.training.engine.replicated import Replicated
from rlhf.training.loop import mean_over, train
from rlhf.training.run import TrainingRun
from support.tiny_models import save_rows, token_sequences
from support.tiny_settings import SHORT_RUN

TOKENS = 64


def make_rows(count: int = 5) -> list[dict[str, Any]]:
    """Replies of several lengths, of which every third is bad."""
    rows = []
    for i in range(count):
        history, reply = (ids.tolist() for ids in token_sequences([3 + i, 4 + 3 * i % 5], seed=i))
        rows.append(
            {
                "dataset": "d",
                "id": f"row-{i}",
                "history_ids": history,
                "reply_ids": [reply],
                "desirable": i % 3 != 1,
            }
        )
    return rows


def config(**changes: Any) -> KtoConfig:
    return KtoConfig.model_validate(SHORT_RUN | changes)


def save_set(folder: Path) -> None:
    rows = make_rows(8)
    save_rows(folder / "set", train=rows[:5], validation=rows[5:])


def run_kto(
    root: torch.nn.Module,
    folder: Path,
    state: Path,
    settings: KtoConfig,
    tokens: int = TOKENS,
    **options: Any,
) -> tuple[TrainingRun, ReferenceLogprobs]:
    """Train as the stage does."""
    data, held_out = (Mixture({"d": folder / "set"}, {}, one) for one in ("train", "validation"))
    engine = Replicated(root, {"": settings.optimizer.learning_rate}, settings.optimizer)
    pairs, shares = Mismatches(data, held_out, settings), root.shares_prompts
    reference = ReferenceLogprobs(engine, (data, held_out, pairs), shares, tokens)
    objective = KtoObjective(settings, reference, shares)
    enrich = KlEstimate(engine, reference, pairs.longest, shares, tokens)

    def validate() -> dict[str, float]:
        means = mean_over(engine, objective, enrich(list(held_out)), tokens)
        return {f"validation_{name}": value for name, value in means.items()}

    run = train(
        engine, objective, data, settings, RunOptions("kto.x", state, {}, **options), tokens,
        validate, reference, enrich,
    )  # fmt: skip
    return run, reference
