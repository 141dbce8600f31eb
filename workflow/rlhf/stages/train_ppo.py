"""PPO against a reward model, starting from and staying near an SFT checkpoint."""

from collections.abc import Iterator
from pathlib import Path

import torch

from rlhf.algorithms.ppo import Ppo
from rlhf.config.ppo import PpoConfig
from rlhf.models.adapter_weights import merged
from rlhf.models.parts import write_tensors
from rlhf.models.reward import load_critic
from rlhf.models.roots import ActorCritic, Critic, ValueHead
from rlhf.stages import online
from rlhf.stages.stage import Stage, main
from rlhf.stages.training import adapt, publish_weights


def run(stage: Stage) -> None:
    """Train, then publish ``model/``, ``value/``, ``metrics.jsonl`` and ``samples.jsonl``."""
    config = stage.read(PpoConfig)
    facts = online.prepare(stage, config)
    policy = online.load_policy(stage, config)
    value: Critic | ValueHead
    if config.value.kind == "critic":
        value = load_critic(stage.folder("reward") / "model", dtype="auto")
        value.freeze(config.freeze_layers)
        adapt(stage, value, config.adapter, config.seed, number=1)
        value.compute_in(config.precision)
    else:
        value = ValueHead(policy.width)
    actor = ActorCritic(policy, value, config.sampling.temperature)
    rates = {"policy.": config.optimizer.learning_rate, "value.": config.value.learning_rate}
    trainer = online.train(stage, config, Ppo(config), actor, rates, facts)

    def write(folder: Path, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        write_tensors(folder / "model.safetensors", dict(merged(value, weights)))

    publish_weights(trainer.engine, "value.", stage.outputs["value"], write)
    online.finish(stage, trainer, facts)


if __name__ == "__main__":
    main(run)
