"""REINFORCE++ against a reward model, starting from and staying near an SFT checkpoint."""

from rlhf.algorithms.reinforce import Reinforce
from rlhf.config.reinforce import ReinforceConfig
from rlhf.stages import online
from rlhf.stages.stage import Stage, main


def run(stage: Stage) -> None:
    """Train, then publish ``model/``, ``metrics.jsonl`` and ``samples.jsonl``."""
    config = stage.read(ReinforceConfig)
    online.train_policy(stage, config, Reinforce(config))


if __name__ == "__main__":
    main(run)
