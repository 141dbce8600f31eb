"""RLOO against a reward model, starting from and staying near an SFT checkpoint."""

from rlhf.algorithms.rloo import Rloo
from rlhf.config.rloo import RlooConfig
from rlhf.models.roots import Actor
from rlhf.stages import online
from rlhf.stages.stage import Stage, main
from rlhf.training.attention import attention_facts


def run(stage: Stage) -> None:
    """Train, then publish ``model/``, ``metrics.jsonl`` and ``samples.jsonl``."""
    config = stage.read(RlooConfig)
    facts = online.prepare(stage, config)
    policy = online.load_policy(stage, config)
    actor = Actor(policy, config.sampling.temperature)
    rates = {"policy.": config.optimizer.learning_rate}
    trainer = online.train(stage, config, Rloo(config), actor, rates, facts)
    online.finish(stage, trainer, facts | attention_facts(actor))


if __name__ == "__main__":
    main(run)
