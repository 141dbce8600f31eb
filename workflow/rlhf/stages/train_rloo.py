"""RLOO against a reward model, starting from and staying near an SFT checkpoint."""

from rlhf.algorithms.rloo import Rloo
from rlhf.config.rloo import RlooConfig
from rlhf.stages import online
from rlhf.stages.stage import Stage, main


def run(stage: Stage) -> None:
    """Train, then publish ``model/``, ``metrics.jsonl`` and ``samples.jsonl``."""
    config = stage.read(RlooConfig)
    online.train_policy(stage, config, Rloo(config))


if __name__ == "__main__":
    main(run)
