"""Runs in which some ranks have nothing to do, by engines that pass layers together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rlhf.algorithms.sft import SftObjective
from rlhf.data.mixture import Mixture
from rlhf.models.generate import Response
from rlhf.runtime.options import EngineKind, EngineOptions, RunOptions
from rlhf.training import distributed
from rlhf.training.engine.open import open_engine
from rlhf.training.loop import mean_over, train
from support.programs import supervised_ranks
from support.tiny_models import token_scorer
from support.tiny_online import EOS, config, prompts_in, trainer

KINDS: dict[int, list[EngineKind]] = {3: ["replicated", "fsdp", "zero3"], 4: ["replicated", "fsdp"]}
MAX_KL = 1e-6  # is exceeded by the first epoch


def whole(engine: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in engine.weights()}


def ppo(kind: EngineKind, folder: Path, state: Path) -> dict[str, Any]:
    """Minibatches of fewer responses than ranks; half the responses are an EOS alone."""
    settings = config(
        rollout_batch_size=8, minibatch_size=2, epochs=4, updates=2, max_approx_kl=MAX_KL
    )
    learner = trainer(prompts_in(folder / "prompts"), state, settings, kind=kind)
    sample = learner.sampler.sample

    def shortened(prompts: list[torch.Tensor], noise: Any) -> list[Response]:
        return [
            replace(response, ids=torch.tensor([EOS]), ended=True) if len(prompt) % 2 else response
            for prompt, response in zip(prompts, sample(prompts, noise), strict=True)
        ]

    learner.sampler.sample = shortened
    rows = [len(minibatch) for minibatch in learner._minibatches(0, 0, distributed.rank())]
    run = learner.train()
    return {
        "metrics": run.journals["metrics"].records(),
        "weights": whole(learner.engine),
        "rows": rows,
    }


def sft(kind: EngineKind, folder: Path, state: Path) -> dict[str, Any]:
    """The last batch of an epoch has one row, and so has the validation."""
    settings, objective = supervised_ranks.config(), SftObjective()
    data = Mixture({"d": folder / "set"}, {}, "train")
    rates = {"": settings.optimizer.learning_rate}
    engine = open_engine(token_scorer(0), rates, settings.optimizer, EngineOptions(kind))
    run = train(
        engine, objective, data, settings, RunOptions("sft.x", state, {}), 40,
        lambda: mean_over(engine, objective, [data[0]], 64),
    )  # fmt: skip
    return {"metrics": run.journals["metrics"].records(), "weights": whole(engine)}


def work(folder: Path, state: Path) -> dict[str, Any]:
    return {
        kind: {run.__name__: run(kind, folder, state / kind / run.__name__) for run in (ppo, sft)}
        for kind in KINDS[distributed.world_size()]
    }
