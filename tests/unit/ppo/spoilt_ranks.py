"""One rank of a PPO run where the last rank alone gets a score that is not finite."""

from __future__ import annotations

from pathlib import Path

from support.tiny_models import rank_main
from tiny_ppo import config, judge, policy, prompts_in, trainer

from rlhf.errors import NumericsError
from rlhf.ppo.scoring import LocalScoring
from rlhf.training import distributed


class Spoilt(LocalScoring):
    """The last rank's first score is infinite."""

    def rewards(self, sequences, starts):
        found = super().rewards(sequences, starts)
        if distributed.rank() == distributed.world_size() - 1:
            found[0] = float("inf")
        return found


def work(folder: Path, state: Path) -> dict:
    one = trainer(prompts_in(folder / "prompts"), state, config(), Spoilt(judge(), policy(), 64))
    try:
        one.train()
    except NumericsError as error:
        return {"error": str(error)}
    return {"error": None}


if __name__ == "__main__":
    rank_main(work)
