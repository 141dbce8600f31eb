"""One rank of small ILQL runs, whose last batch leaves a rank without rows."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from rlhf.algorithms.ilql import IlqlObjective
from rlhf.config.ilql import IlqlConfig
from rlhf.data.mixture import Mixture
from rlhf.models.ilql import Ilql, ValueHeads
from rlhf.runtime.deadline import Saved
from rlhf.runtime.options import EngineKind, EngineOptions, RunOptions
from rlhf.training.engine.fsdp import FullySharded
from rlhf.training.engine.open import open_engine
from rlhf.training.engine.protocol import Engine
from rlhf.training.engine.replicated import Replicated
from rlhf.training.loop import mean_over, train
from rlhf.training.run import TrainingRun
from support.tiny_models import rank_main, token_scorer
from support.tiny_settings import SHORT_RUN

TOKENS = 64
KINDS: tuple[EngineKind, ...] = ("replicated", "fsdp")


def config(**changes: Any) -> IlqlConfig:
    return IlqlConfig.model_validate(SHORT_RUN | {"alpha": 0.3, "awac_beta": 0.5} | changes)


def root(seed: int = 0, two_qs: bool = True) -> Ilql:
    policy = token_scorer(seed)
    return Ilql(policy, ValueHeads(policy.width, policy.vocabulary, two_qs, seed))


def run_ilql(
    model: Ilql,
    folder: Path,
    state: Path,
    settings: IlqlConfig,
    kind: EngineKind = "replicated",
    **options: Any,
) -> tuple[TrainingRun, Engine]:
    """Train as the stage does."""
    data, held_out = (Mixture({"d": folder / "set"}, {}, one) for one in ("train", "validation"))
    rates = {"": settings.optimizer.learning_rate}
    engine = open_engine(model, rates, settings.optimizer, EngineOptions(kind))
    objective = IlqlObjective(settings, model.policy.shares_prompts)

    def validate() -> dict[str, float]:
        means = mean_over(engine, objective, held_out, TOKENS)
        return {f"validation_{name}": value for name, value in means.items()}

    def follow(step: int) -> None:
        if step % settings.steps_for_target_q_sync == 0:
            engine.follow(settings.alpha)

    run = train(
        engine, objective, data, settings, RunOptions("ilql.x", state, {}, **options), TOKENS,
        validate, after_update=follow,
    )  # fmt: skip
    return run, engine


def interrupt(patch: pytest.MonkeyPatch, engine: type[Any], after: int) -> None:
    """Ask for a stop in one update of all that come."""
    original, calls = engine.step, []

    def step(self, factor):
        calls.append(1)
        if len(calls) == after:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, factor)

    patch.setattr(engine, "step", step)


def result(run: TrainingRun, engine: Engine) -> dict[str, Any]:
    weights = {name: tensor.clone() for name, tensor in engine.weights()}
    return {"model": weights, "metrics": run.journals["metrics"].records()}


def in_parts(folder: Path, state: Path, kind: EngineKind) -> dict[str, Any]:
    """A run that is stopped after its second update, and goes on."""
    settings = config()
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, FullySharded if kind == "fsdp" else Replicated, after=2)
        with pytest.raises(Saved, match="after step 2 of 4"):
            run_ilql(root(), folder, state, settings, kind)
    return result(*run_ilql(root(), folder, state, settings, kind))


def work(folder: Path, state: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in KINDS:
        found[kind] = result(*run_ilql(root(), folder, state / kind, config(), kind))
    found["parts"] = in_parts(folder, state / "parts", "fsdp")
    found["held"] = sum(target.to_local().numel() for target in sharded_targets())
    return found


def sharded_targets() -> list[Any]:
    """Targets as a rank of FSDP holds them."""
    model = root()
    open_engine(model, {"": 1e-2}, config().optimizer, EngineOptions("fsdp"))
    return list(model.heads.target.parameters())


if __name__ == "__main__":
    rank_main(work)
