"""PPO against a reward model, starting from and staying near an SFT checkpoint."""

from collections.abc import Iterator
from pathlib import Path

import torch

from rlhf.algorithms.ppo import Ppo
from rlhf.algorithms.ptx import Ptx
from rlhf.config.ppo import PpoConfig
from rlhf.errors import ConfigError
from rlhf.models.adapter_weights import adapter_tensors, merged, save_adapter
from rlhf.models.parts import write_tensors
from rlhf.models.publish import below
from rlhf.models.reward import load_critic, new_critic
from rlhf.models.roots import ActorCritic, Critic, TokenScorer, ValueBranch, ValueHead
from rlhf.provenance.bases import ADAPTER
from rlhf.stages import online
from rlhf.stages.model_needs import check_tokenized
from rlhf.stages.rewards import reward_folders
from rlhf.stages.stage import Stage, main
from rlhf.stages.training import adapt, mixture, publish_weights
from rlhf.training.attention import attention_facts


def run(stage: Stage) -> None:
    """Train, then publish ``model/``, ``value/``, ``metrics.jsonl`` and ``samples.jsonl``."""
    config = stage.read(PpoConfig)
    _check_engine(stage, config)
    facts = online.prepare(stage, config)
    policy = online.load_policy(stage, config)
    adapter = config.adapter if config.value.adapter else None
    value = _value(stage, config, policy)
    actor = ActorCritic(policy, value, config.sampling.temperature)
    rates = {"policy.": config.optimizer.learning_rate, "value.": config.value.learning_rate}
    trainer = online.train(stage, config, Ppo(config), actor, rates, facts, _ptx(stage, config))

    def write(folder: Path, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        if adapter and adapter.alone and isinstance(value, Critic):
            own = adapter_tensors(value.model, below(weights, "model."))
            save_adapter(value.model, own, folder / ADAPTER)
        else:
            write_tensors(folder / "model.safetensors", dict(merged(value, weights)))

    publish_weights(trainer.engine, "value.", stage.outputs["value"], write)
    online.finish(stage, trainer, facts | attention_facts(actor))


def _value(
    stage: Stage, config: PpoConfig, policy: TokenScorer
) -> Critic | ValueBranch | ValueHead:
    """The value function, as it starts."""
    settings = config.value
    if settings.kind == "branch":
        assert settings.layers is not None
        where = f"{stage.section}.{stage.name}.value.layers"
        return ValueBranch(policy, settings.layers, where)
    if settings.kind == "head":
        return ValueHead(policy.width)
    if settings.from_sft:
        value = new_critic(stage.folder("sft") / "model", dtype="auto")
    else:
        value = load_critic(reward_folders(stage)[0], dtype="auto")
    value.freeze(config.freeze_layers)
    adapter = config.adapter if settings.adapter else None
    adapt(stage, value, adapter, config.seed, config.precision, number=1)
    value.compute_in(config.precision)
    return value


def _ptx(stage: Stage, config: PpoConfig) -> Ptx | None:
    """The pretraining loss, if there is one.

    Raises:
        ConfigError: its rows may be too long for the policy.
        DataError: there are none.
    """
    settings = config.ptx
    if settings is None or not settings.coefficient:
        return None
    check_tokenized(stage, stage.folder("sft") / "model", role="ptx")
    data = mixture(stage, settings.data, "train", role="ptx")
    rows = settings.batch_size or config.minibatch_size
    return Ptx(settings, rows, data, config.seed, stage.micro_batch_tokens)


def _check_engine(stage: Stage, config: PpoConfig) -> None:
    """Refuse an engine that can't train the value function alone, or the policy alone."""
    kind = stage.engine.kind
    if config.ptx and kind in ("zero2", "zero3"):
        raise ConfigError(
            f"Under {kind} every pass has to use all that is trained, and that of a pretraining "
            "loss uses no value function.",
            where=f"{stage.section}.{stage.name}.ptx, cluster.engine",
            expected="the engine replicated, fsdp or zero1",
            hint="take the engine fsdp, or leave ptx out",
        )
    if config.value.warmup and kind.startswith("zero"):
        raise ConfigError(
            f"The engine {kind} updates all parameters together: there is no warm-up of the value "
            "function.",
            where=f"{stage.section}.{stage.name}.value.warmup, cluster.engine",
            expected="the engine replicated or fsdp",
            hint="take the engine fsdp, or leave value.warmup out",
        )


if __name__ == "__main__":
    main(run)
