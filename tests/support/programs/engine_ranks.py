"""One rank of a run of an engine that is saved, goes on, and is taken up again from its state."""

from __future__ import annotations

from pathlib import Path

import torch

from rlhf.config.training import OptimizerConfig
from rlhf.training import distributed
from rlhf.training.checkpoints import Checkpoints
from rlhf.training.determinism import random_state, restore_random_state, seed_everything
from rlhf.training.engine.replicated import Replicated
from support.tiny_models import rank_main, token_scorer, token_sequences

SAVED, STEPS = 2, 4


def make() -> tuple[torch.nn.Module, Replicated]:
    root = token_scorer(0)
    root.freeze(1)
    config = OptimizerConfig(learning_rate=1e-2, eps=1e-3, weight_decay=0.1)
    return root, Replicated(root, {"": config.learning_rate}, config)


def update(engine: Replicated, step: int) -> list[float]:
    """One update on rows that this rank draws from a generator of its own."""
    rows = [ids[: int(torch.randint(4, 12, ()))] for ids in token_sequences([12, 12], seed=step)]
    for number, ids in enumerate(rows, start=1):
        logprobs, _ = engine([ids], [torch.arange(1, len(ids))])
        engine.backward(-logprobs.sum() / 40, last=number == len(rows))
    return [engine.step(1 - step / 10), *map(len, rows)]


def update_experts() -> list[torch.Tensor]:
    """Two experts and a third that no row goes to; this rank's rows all go to one of them."""
    experts = torch.nn.ParameterList(torch.ones(2) for _ in range(3))
    engine = Replicated(experts, {"": 1.0}, OptimizerConfig(eps=1e-12, weight_decay=0.0))
    engine.backward(experts[distributed.rank()].sum(), last=True)
    engine.step(1.0)
    return [expert.detach() for expert in experts]


def work(folder: Path, state: Path) -> dict:
    root, engine = make()
    seed_everything(7 + distributed.rank())
    checkpoints, figures = Checkpoints(state, {}), []
    for step in range(STEPS):
        figures.append(update(engine, step))
        if step + 1 == SAVED:
            checkpoints.save(SAVED, {"random": random_state(), "rank": distributed.rank()}, engine)
            distributed.wait()
    again, engine = make()
    seed_everything(99)
    found = Checkpoints(state, {}).load(engine)
    assert found is not None
    restore_random_state(found[1]["random"])
    return {
        "straight": dict(root.named_parameters()),
        "resumed": dict(again.named_parameters()),
        "figures": figures[SAVED:],
        "again": [update(engine, step) for step in range(found[0], STEPS)],
        "rank": found[1]["rank"],
        "experts": update_experts(),
    }


if __name__ == "__main__":
    rank_main(work)
