"""Supervised fine-tuning of a base model."""

from rlhf.algorithms.sft import SftObjective
from rlhf.config.sft import SftConfig
from rlhf.models.load import load_token_scorer, load_tokenizer
from rlhf.provenance.facts import CANNOT
from rlhf.provenance.manifest import read_manifest
from rlhf.stages.model_needs import check_needs, check_tokenized
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


def run(stage: Stage) -> None:
    """Train, then publish ``model/`` and ``metrics.jsonl``."""
    threads = begin(stage.deterministic)
    config = stage.read(SftConfig)
    check_batches(stage.section, stage.name, config, distributed.world_size())
    facts = tokenizer_facts(stage, "start", "data")
    start = stage.folder("start") / "model"
    check_needs(stage, start, read_manifest(stage.input("start"))["facts"].get(CANNOT, {}))
    check_tokenized(stage, start)
    model = load_token_scorer(start, dtype="auto")
    model.freeze(config.freeze_layers)
    adapt(stage, model, config.adapter, config.seed, config.precision)
    regularize(stage, model, config, config.neftune_alpha)
    model.compute_in(config.precision)
    data, held_out = (mixture(stage, config.data, split) for split in ("train", "validation"))
    rates = {"": config.optimizer.learning_rate}
    engine = open_engine(model, rates, config.optimizer, stage.engine)
    objective = SftObjective(config.loss)

    finished = train(
        engine,
        objective,
        data,
        config,
        stage.run_options(threads),
        stage.micro_batch_tokens,
        lambda: validation(stage, engine, objective, data, held_out, config),
    )
    base = own_base(config.adapter, start)
    publish_model(engine, model, load_tokenizer(start), stage.outputs["model"], base)
    facts |= machine_facts(threads) | attention_facts(model)
    finish(stage, finished, data, held_out, finished.last_metrics("validation_loss"), facts)


if __name__ == "__main__":
    main(run)
