"""One rank of SFT with all that is drawn, averaged and chosen: straight through, and in two parts.

Validations get a made-up figure besides, which is best after the second of six steps.
"""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from typing import Any

import torch

from rlhf.algorithms.sft import SftObjective
from rlhf.config.sft import SftConfig
from rlhf.data.mixture import Mixture
from rlhf.models.regularization import add_embedding_noise, drop_residuals
from rlhf.runtime.deadline import Saved
from rlhf.runtime.options import EngineOptions, RunOptions
from rlhf.training import distributed
from rlhf.training.engine.open import open_engine
from rlhf.training.loop import mean_over, train
from support.programs.supervised_ranks import config, make_rows
from support.tiny_models import rank_main, save_rows, token_scorer

KINDS = ("replicated", "fsdp", "zero1", "zero3")
STEPS, BEST = 6, 2
SCORES = [9.0, 1.0, 3.0, 2.0, 2.5, 2.0, 2.0]  # of the validations: before training, after each step
Weights = dict[str, torch.Tensor]


def settings(**changes: Any) -> SftConfig:
    values = {
        "data": {"a": {}, "b": {}},
        "epochs": 3,
        "global_batch_size": 5,
        "evaluations": STEPS,
        "loss": {"kind": "poly"},
        "residual_dropout": {"rate": 0.2, "ramp": "linear"},
        "neftune_alpha": 5.0,
        "ema": {"decay": 0.7},
        "selection": {"keep": "best", "measure": "validation_score"},
    }
    return config(**values | changes)


def save_sets(folder: Path) -> None:
    rows = make_rows()
    save_rows(folder / "a", train=rows[:5], validation=rows[:2])
    save_rows(folder / "b", train=rows[5:], validation=rows[3:4])


def mixture(folder: Path, split: str) -> Mixture:
    return Mixture({name: folder / name for name in ("a", "b")}, {}, split)


def run(
    kind: str, folder: Path, state: Path, config: SftConfig, stop: int = 0
) -> tuple[Weights, list[Weights], list[dict[str, Any]], Any]:
    """Weights in the end, weights at each validation, the journal, and the run.

    Args:
        kind: of the engine.
        folder: holds the sets.
        state: folder of the saved states.
        config: the run's.
        stop: updates after which it is asked to stop; 0: it is not.
    """
    root = token_scorer(0)
    dropout = config.residual_dropout
    drop_residuals(root, dropout.rate, dropout.ramp, "x")
    if config.neftune_alpha:
        add_embedding_noise(root, config.neftune_alpha)
    rates = {"": config.optimizer.learning_rate}
    engine: Any = open_engine(root, rates, config.optimizer, EngineOptions(kind))
    objective, held_out = SftObjective(config.loss), mixture(folder, "validation")
    validated: list[Weights] = []
    original, updates = engine.step, []

    def step(factor: float) -> float:
        updates.append(factor)
        if len(updates) == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(factor)

    def whole() -> Weights:
        return {name: tensor.clone() for name, tensor in engine.weights()}

    def validate() -> dict[str, float]:
        seen = [line for path in state.rglob("metrics.jsonl") for line in path.open()]
        score = SCORES[sum("validation_" in line for line in seen)]
        validated.append(whole())
        means = mean_over(engine, objective, held_out, 40)
        return {f"validation_{name}": value for name, value in means.items()} | {
            "validation_score": score
        }

    engine.step = step
    options = RunOptions("sft.x", state, {"kind": kind})
    done = train(engine, objective, mixture(folder, "train"), config, options, 40, validate)
    return whole(), validated, done.journals["metrics"].records(), done


def work(folder: Path, state: Path) -> dict[str, Any]:
    gc.freeze()  # DeepSpeed collects garbage at each engine, among all that was ever imported
    found: dict[str, Any] = {}
    for kind in KINDS:
        straight, validated, metrics, done = run(kind, folder, state / kind, settings())
        stopped = None
        try:
            run(kind, folder, state / f"{kind} parts", settings(), stop=3)
        except Saved as error:
            stopped = str(error)
        parts, _, again, _ = run(kind, folder, state / f"{kind} parts", settings())
        found[kind] = {
            "straight": straight,
            "parts": parts,
            "stopped": stopped,
            "validated": validated,
            "metrics": metrics if distributed.rank() == 0 else None,
            "again": again if distributed.rank() == 0 else None,
            "kept": done.kept_step,
        }
    return found


if __name__ == "__main__":
    rank_main(work)
