"""PPO against a reward model, starting from and staying near an SFT checkpoint."""

from collections.abc import Iterator
from pathlib import Path

import torch

from rlhf.algorithms.ppo import Ppo
from rlhf.config.ppo import PpoConfig
from rlhf.models.adapter_weights import adapter_tensors, merged, save_adapter
from rlhf.models.parts import write_tensors
from rlhf.models.publish import below
from rlhf.models.reward import load_critic
from rlhf.models.roots import ActorCritic, Critic, ValueHead
from rlhf.provenance.bases import ADAPTER
from rlhf.stages import online
from rlhf.stages.rewards import reward_folders
from rlhf.stages.stage import Stage, main
from rlhf.stages.training import adapt, publish_weights
from rlhf.training.attention import attention_facts


def run(stage: Stage) -> None:
    """Train, then publish ``model/``, ``value/``, ``metrics.jsonl`` and ``samples.jsonl``."""
    config = stage.read(PpoConfig)
    facts = online.prepare(stage, config)
    policy = online.load_policy(stage, config)
    value: Critic | ValueHead
    adapter = config.adapter if config.value.adapter else None
    if config.value.kind == "critic":
        first, *_ = reward_folders(stage)
        value = load_critic(first, dtype="auto")
        value.freeze(config.freeze_layers)
        adapt(stage, value, adapter, config.seed, config.precision, number=1)
        value.compute_in(config.precision)
    else:
        value = ValueHead(policy.width)
    actor = ActorCritic(policy, value, config.sampling.temperature)
    rates = {"policy.": config.optimizer.learning_rate, "value.": config.value.learning_rate}
    trainer = online.train(stage, config, Ppo(config), actor, rates, facts)

    def write(folder: Path, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        if adapter and adapter.alone and isinstance(value, Critic):
            own = adapter_tensors(value.model, below(weights, "model."))
            save_adapter(value.model, own, folder / ADAPTER)
        else:
            write_tensors(folder / "model.safetensors", dict(merged(value, weights)))

    publish_weights(trainer.engine, "value.", stage.outputs["value"], write)
    online.finish(stage, trainer, facts | attention_facts(actor))


if __name__ == "__main__":
    main(run)
