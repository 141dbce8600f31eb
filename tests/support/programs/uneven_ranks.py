"""One rank of PPO updates in which the ranks' minibatches are uneven, or empty."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from rlhf.config.ppo import PpoConfig
from rlhf.training import distributed
from support.tiny_models import gradients, rank_main
from support.tiny_online import config, prompts_in, trainer

RANKS, ROLLOUT, MINIBATCH = 3, 8, 2
MICRO_BATCH_TOKENS = 30


def settings() -> dict[str, PpoConfig]:
    """Fewer responses in a minibatch than ranks; several to a prompt; a model for the values."""
    return {
        "small": config(rollout_batch_size=ROLLOUT, minibatch_size=MINIBATCH, updates=1),
        "groups": config(
            rollout_batch_size=24, minibatch_size=12, responses_per_prompt=3, updates=1
        ),
        "critic": config(
            rollout_batch_size=10, minibatch_size=5, value__kind="critic", epochs=2, updates=1
        ),
    }


def update_of(settings: PpoConfig, folder: Path, state: Path) -> dict:
    """An update: each minibatch's rounds and gradients, and the forward passes of each model."""
    one = trainer(
        prompts_in(folder / "prompts"), state, settings, micro_batch_tokens=MICRO_BATCH_TOKENS
    )
    passes: Counter[str] = Counter()
    roots = {
        "actor": one.actor, "reward": one.scoring.reward.sources[0]._model,
        "reference": one.scoring.reference._model
    }  # fmt: skip
    for name, root in roots.items():
        root.register_forward_pre_hook(lambda *_, name=name: passes.update([name]))
    lasts: list[bool] = []
    backward = one.engine.backward
    one.engine.backward = lambda loss, last: lasts.append(last) or backward(loss, last)
    experience = one.experience(0, one.roll_out(0))
    lengths, steps = experience.rollout.lengths, []
    for number, rounds in enumerate(one._rounds(0, 0, lengths)):
        lasts.clear()
        measures, ratio = one._accumulate(experience, rounds)
        own = gradients(one.actor)
        for parameter in one.actor.parameters():
            if distributed.world_size() > 1 and parameter.grad is not None:
                torch.distributed.all_reduce(parameter.grad)
        steps.append(
            {
                "minibatch": one._minibatches(0, 0, distributed.rank())[number],
                "rounds": [(each.rows, each.counts) for each in rounds],
                "last": list(lasts),
                "touched": set(own),
                "idle": not any(gradient.any() for gradient in own.values()),
                "measures": measures,
                "ratio": ratio,
                "gradients": gradients(one.actor),
            }
        )
        one.actor.zero_grad()
    return {"passes": passes, "lengths": lengths, "steps": steps}


def work(folder: Path, state: Path) -> dict:
    one = trainer(prompts_in(folder / "prompts"), state, settings()["small"])
    run = one.train()
    return {
        "rows": len(range(distributed.rank(), ROLLOUT, RANKS)),
        "minibatches": one._minibatches(0, 0, distributed.rank()),
        "parameters": {name: p.detach() for name, p in one.actor.named_parameters()},
        "metrics": run.journals["metrics"].records(),
        "updates": {
            name: update_of(each, folder, state / name) for name, each in settings().items()
        },
    }


if __name__ == "__main__":
    rank_main(work)
