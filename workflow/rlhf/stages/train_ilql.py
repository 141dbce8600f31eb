"""Implicit language Q-learning: an SFT checkpoint gets values of tokens, from ranked replies."""

import torch

from rlhf.algorithms.ilql import IlqlObjective, score_scale
from rlhf.config.ilql import IlqlConfig
from rlhf.models.ilql import Ilql, ValueHeads, decoding_heads, save_heads
from rlhf.models.load import load_token_scorer, load_tokenizer
from rlhf.models.publish import below
from rlhf.stages.model_needs import check_tokenized
from rlhf.stages.stage import Stage, main
from rlhf.stages.training import (
    adapt,
    begin,
    finish,
    machine_facts,
    mixture,
    own_base,
    publish_model,
    regularize,
    tokenizer_facts,
    validation,
)
from rlhf.training import distributed
from rlhf.training.attention import attention_facts
from rlhf.training.batches import check_batches
from rlhf.training.engine.open import open_engine
from rlhf.training.loop import train

MEASURES = ("validation_loss", "validation_accuracy", "validation_kendall_tau")


def run(stage: Stage) -> None:
    """Train, then publish ``model/``, which has the value heads too, and ``metrics.jsonl``."""
    threads = begin(stage.deterministic)
    config, tokens = stage.read(IlqlConfig), stage.micro_batch_tokens
    check_batches(stage.section, stage.name, config, distributed.world_size())
    facts = tokenizer_facts(stage, "sft", "data")
    start = stage.folder("sft") / "model"
    check_tokenized(stage, start)
    policy = load_token_scorer(start, dtype="auto")
    heads = ValueHeads(policy.width, policy.vocabulary, config.two_qs, config.seed)
    policy.freeze(config.freeze_layers)
    adapt(stage, policy, config.adapter, config.seed, config.precision)
    regularize(stage, policy, config)
    policy.compute_in(config.precision)
    data, held_out = (mixture(stage, config.data, split) for split in ("train", "validation"))
    own = config.rewards == "scores"
    scale = score_scale(f"ilql.{stage.name}", data) if own else (0.0, 1.0)
    rates = {"": config.optimizer.learning_rate}
    engine = open_engine(Ilql(policy, heads), rates, config.optimizer, stage.engine)
    objective = IlqlObjective(config, policy.shares_prompts, scale)

    def follow(step: int) -> None:
        if step % config.steps_for_target_q_sync == 0:
            engine.follow(config.alpha)

    finished = train(
        engine,
        objective,
        data,
        config,
        stage.run_options(threads),
        tokens,
        lambda: validation(stage, engine, objective, data, held_out, config),
        after_update=follow,
    )
    found = decoding_heads(below(engine.weights(torch.float32), "heads."))
    trained = {name: tensor.cpu() for name, tensor in found}
    publish_model(
        engine,
        policy,
        load_tokenizer(start),
        stage.outputs["model"],
        own_base(config.adapter, start),
        lambda folder: save_heads(folder, trained),
        prefix="policy.",
    )
    facts |= machine_facts(threads) | attention_facts(policy)
    finish(stage, finished, data, held_out, finished.last_metrics(*MEASURES), facts)


if __name__ == "__main__":
    main(run)
