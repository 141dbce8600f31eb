"""DPO: an SFT policy learns from ranked replies and stays near where it started."""

from rlhf.algorithms.dpo import DpoObjective, ReferenceLogprobs
from rlhf.config.dpo import DpoConfig
from rlhf.models.load import load_token_scorer, load_tokenizer
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
    """Train, then publish ``model/`` and ``metrics.jsonl``."""
    threads = begin(stage.deterministic)
    config, tokens = stage.read(DpoConfig), stage.micro_batch_tokens
    check_batches(stage.section, stage.name, config, distributed.world_size())
    facts = tokenizer_facts(stage, "sft", "data")
    start = stage.folder("sft") / "model"
    check_tokenized(stage, start)
    model = load_token_scorer(start, dtype="auto")
    model.freeze(config.freeze_layers)
    adapt(stage, model, config.adapter, config.seed, config.precision)
    regularize(stage, model, config)
    model.compute_in(config.precision)
    data, held_out = (mixture(stage, config.data, split) for split in ("train", "validation"))
    rates = {"": config.optimizer.learning_rate}
    engine = open_engine(model, rates, config.optimizer, stage.engine)
    reference = ReferenceLogprobs(engine, (data, held_out), model.shares_prompts, tokens)
    objective = DpoObjective(config, reference, model.shares_prompts)
    finished = train(
        engine,
        objective,
        data,
        config,
        stage.run_options(threads),
        tokens,
        lambda: validation(stage, engine, objective, data, held_out, config),
        reference,
    )
    base = own_base(config.adapter, start)
    publish_model(engine, model, load_tokenizer(start), stage.outputs["model"], base)
    facts |= machine_facts(threads) | attention_facts(model)
    finish(stage, finished, data, held_out, finished.last_metrics(*MEASURES), facts)


if __name__ == "__main__":
    main(run)
