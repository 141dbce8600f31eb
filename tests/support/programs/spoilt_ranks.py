"""One rank of a PPO run where the last rank alone gets a score that is not finite."""

from __future__ import annotations

from pathlib import Path

from rlhf.errors import NumericsError
from rlhf.online.rewards import RewardModel
from rlhf.training import distributed
from support.tiny_models import rank_main
from support.tiny_online import EOS, config, judge, prompts_in, trainer


class Spoilt(RewardModel):
    """The last rank's first score is infinite."""

    def __call__(self, rollout):
        scores = super().__call__(rollout)
        if distributed.rank() == distributed.world_size() - 1:
            scores[0] = float("inf")
        return scores


def work(folder: Path, state: Path) -> dict:
    one = trainer(prompts_in(folder / "prompts"), state, config(), Spoilt(judge(), EOS, 64))
    try:
        one.train()
    except NumericsError as error:
        return {"error": str(error)}
    return {"error": None}


if __name__ == "__main__":
    rank_main(work)
