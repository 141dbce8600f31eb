"""One rank of a small DPO run, and of one by KTO, whose last batches leave a rank without rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rlhf.algorithms.dpo import DpoLoss
from rlhf.algorithms.replies import RankedObjective, ReferenceLogprobs
from rlhf.config.dpo import DpoConfig
from rlhf.data.mixture import Mixture
from rlhf.runtime.options import RunOptions
from rlhf.training.engine.replicated import Replicated
from rlhf.training.loop import mean_over, train
from rlhf.training.run import TrainingRun
from support.programs import kto_ranks
from support.tiny_models import rank_main, save_rows, token_scorer, token_sequences
from support.tiny_settings import SHORT_RUN

TOKENS = 64
# Good replies count for much, so that those to other histories may become more probable too.
KTO = kto_ranks.config(beta=0.5, desirable_weight=4.0, undesirable_weight=0.2)


def make_rows(count: int = 5) -> list[dict[str, Any]]:
    """Rows of 2, 3 or 4 ranked replies."""
    rows = []
    for i in range(count):
        history, *replies = (
            ids.tolist() for ids in token_sequences([4 + i, 5, 3, 7, 2][: 3 + i % 3], seed=i)
        )
        rows.append({"id": f"row-{i}", "history_ids": history, "reply_ids": replies})
    return rows


def config(**changes: Any) -> DpoConfig:
    return DpoConfig.model_validate(SHORT_RUN | changes)


def save_set(folder: Path) -> None:
    rows = make_rows(7)
    save_rows(folder / "set", train=rows[:5], validation=rows[5:])


def run_dpo(
    root: torch.nn.Module, folder: Path, state: Path, settings: DpoConfig, **options: Any
) -> tuple[TrainingRun, ReferenceLogprobs]:
    """Train as the stage does."""
    data, held_out = (Mixture({"d": folder / "set"}, {}, one) for one in ("train", "validation"))
    engine = Replicated(root, {"": settings.optimizer.learning_rate}, settings.optimizer)
    reference = ReferenceLogprobs(engine, (data, held_out), root.shares_prompts, TOKENS)
    objective = RankedObjective(DpoLoss(settings, reference), root.shares_prompts)

    def validate() -> dict[str, float]:
        means = mean_over(engine, objective, held_out, TOKENS)
        return {f"validation_{name}": value for name, value in means.items()}

    run = train(
        engine, objective, data, settings, RunOptions("dpo.x", state, {}, **options), TOKENS,
        validate, reference,
    )  # fmt: skip
    return run, reference


def work(folder: Path, state: Path) -> dict[str, Any]:
    return {
        "dpo": _results(run_dpo, folder, state / "dpo", config()),
        "kto": _results(kto_ranks.run_kto, folder / "kto", state / "kto", KTO),
    }


def _results(run_method: Any, folder: Path, state: Path, settings: Any) -> dict[str, Any]:
    root = token_scorer(0)
    run, reference = run_method(root, folder, state, settings)
    return {
        "model": {name: p.detach() for name, p in root.named_parameters()},
        "metrics": run.journals["metrics"].records(),
        "reference": reference.state(),
    }


if __name__ == "__main__":
    rank_main(work)
