"""One rank of two PPO updates, and what it saw."""

from __future__ import annotations

from pathlib import Path

import torch
from support.tiny_models import rank_main
from tiny_ppo import config, prompts_in, trainer

from rlhf.ppo.advantages import whiten
from rlhf.ppo.rewards import RunningScale, leave_one_out
from rlhf.training import distributed

LENGTHS = [3, 1, 8, 2, 5]  # an odd number: the ranks have different numbers of responses
SCORES = torch.tensor([1.0, 2.0, 6.0, 0.5, -1.0, 3.0, 4.0, 4.0, 9.0])  # 3 prompts, 3 responses each


def parts() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(n, generator=generator) * 3 + 1 for n in LENGTHS]


def settings() -> dict:
    return config(minibatch_size=4, epochs=2, rewards__scaling="running", rewards__whiten=True,
                  kl__controller="adaptive", updates=2)  # fmt: skip


def work(folder: Path, state: Path) -> dict:
    mine = parts()[distributed.rank() :: distributed.world_size()]
    scale = RunningScale()
    stds = [scale.update(part[:1].repeat(2) + torch.tensor([0.0, 1.0])) for part in mine[:2]]
    one = trainer(prompts_in(folder / "prompts"), state, settings())
    rollouts, original = [], one.roll_out
    one.roll_out = lambda update: rollouts.append(original(update)) or rollouts[-1]
    run = one.train()
    return {
        "white": whiten(mine),
        "unshifted": whiten(mine, shift_mean=False),
        "stds": stds,
        "centred": leave_one_out(SCORES[distributed.rank() :: distributed.world_size()], 3),
        "total": distributed.total([1.0, float(distributed.rank())]),
        "gathered": distributed.gather([distributed.rank()]),
        "anyone": [distributed.anyone(distributed.rank() == 1), distributed.anyone(False)],
        "rollouts": [
            {"sequences": r.sequences, "raw": r.raw, "scores": r.scores, "advantages": r.advantages}
            for r in rollouts
        ],
        "parameters": {name: p.detach() for name, p in one.actor.named_parameters()},
        "metrics": run.journals["metrics"].records(),
        "coefficient": one.kl.coefficient,
        "scale": one.scale.state(),
    }


if __name__ == "__main__":
    rank_main(work)
