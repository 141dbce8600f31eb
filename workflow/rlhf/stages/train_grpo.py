"""GRPO against a reward model, starting from and staying near an SFT checkpoint."""

from rlhf.algorithms.grpo import Grpo
from rlhf.config.grpo import GrpoConfig
from rlhf.stages import online
from rlhf.stages.stage import Stage, main


def run(stage: Stage) -> None:
    """Train, then publish ``model/``, ``metrics.jsonl`` and ``samples.jsonl``."""
    config = stage.read(GrpoConfig)
    online.train_policy(stage, config, Grpo(config))


if __name__ == "__main__":
    main(run)
