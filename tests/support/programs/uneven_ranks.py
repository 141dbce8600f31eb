"""One rank of a PPO update whose minibatches are smaller than the number of ranks."""

from __future__ import annotations

from pathlib import Path

from rlhf.training import distributed
from support.tiny_models import rank_main
from support.tiny_online import config, prompts_in, trainer

RANKS, ROLLOUT, MINIBATCH = 3, 8, 2


def work(folder: Path, state: Path) -> dict:
    settings = config(rollout_batch_size=ROLLOUT, minibatch_size=MINIBATCH, updates=1)
    one = trainer(prompts_in(folder / "prompts"), state, settings)
    mine = len(range(distributed.rank(), ROLLOUT, RANKS))
    run = one.train()
    return {
        "rows": mine,
        "minibatches": one._minibatches(0, 0),
        "parameters": {name: p.detach() for name, p in one.actor.named_parameters()},
        "metrics": run.journals["metrics"].records(),
    }


if __name__ == "__main__":
    rank_main(work)
