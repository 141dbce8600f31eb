"""A reward model on top of an SFT checkpoint."""

import logging

from rlhf.algorithms.reward import RewardObjective
from rlhf.config.reward import RewardConfig
from rlhf.core.files import write_json
from rlhf.data.enough import Demonstrations, demonstrations, require_scores
from rlhf.data.mixture import Mixture
from rlhf.evaluation.calibration import calibrate
from rlhf.evaluation.held_out import HeldOut
from rlhf.models.load import load_tokenizer
from rlhf.models.reward import new_reply_scorer, save_calibration
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
)
from rlhf.training import distributed
from rlhf.training.attention import attention_facts
from rlhf.training.batches import check_batches
from rlhf.training.engine.open import open_engine
from rlhf.training.loop import train

logger = logging.getLogger(__name__)

MEASURES = (
    "validation_loss",
    "validation_accuracy",
    "validation_kendall_tau",
    "validation_spearman",
    "validation_calibration_error",
    "validation_length_correlation",
)


def run(stage: Stage) -> None:
    """Train, calibrate, then publish ``model/``, ``metrics.jsonl`` and ``evaluation.json``."""
    threads = begin(stage.deterministic)
    config, tokens = stage.read(RewardConfig), stage.micro_batch_tokens
    check_batches(stage.section, stage.name, config, distributed.world_size())
    facts = tokenizer_facts(stage, "start", "data", "demonstrations")
    start = stage.folder("start") / "model"
    check_needs(stage, start, {})
    check_tokenized(stage, start, "data")
    check_tokenized(stage, start, "demonstrations")
    model = new_reply_scorer(start, config.seed, "auto", config.pooling)
    model.freeze(config.freeze_layers)
    if config.train == "head":
        model.freeze_body()
    adapt(stage, model, config.adapter, config.seed, config.precision)
    regularize(stage, model, config)
    model.compute_in(config.precision)
    data, held_out = (mixture(stage, config.data, split) for split in ("train", "validation"))
    if config.loss.scores_for:
        require_scores(f"reward.{stage.name}", config.loss.scores_for, data)
    shown = _demonstrations(stage, config.calibration_samples)
    if shown.warning and distributed.rank() == 0:
        logger.warning("reward.%s: %s", stage.name, shown.warning)
    rates = {"": config.optimizer.learning_rate}
    engine = open_engine(model, rates, config.optimizer, stage.engine)
    objective = RewardObjective(config, model.branches)
    validation = HeldOut(objective, held_out, tokens)
    finished = train(
        engine,
        objective,
        data,
        config,
        stage.run_options(threads),
        tokens,
        lambda: validation.validate(engine),
    )
    if not validation.scored or finished.kept_step is not None:
        validation.validate(engine)  # nothing was left to train; or these are not the last weights
    mean, std = calibrate(model, shown.rows, tokens)
    publish_model(
        engine,
        model,
        load_tokenizer(start),
        stage.outputs["model"],
        own_base(config.adapter, start),
        lambda folder: save_calibration(folder, mean, std),
    )
    if distributed.rank() == 0:
        write_json(stage.outputs["evaluation"], validation.evaluation())
    metrics = finished.last_metrics(*MEASURES)
    metrics |= {"calibration_mean": mean, "calibration_std": std}
    counts = {
        "demonstrations": len(shown.rows),
        "different": shown.different,
        "prompts": shown.prompts,
    }
    facts |= machine_facts(threads) | attention_facts(model)
    facts |= {"warning": shown.warning} if shown.warning else {}
    finish(stage, finished, data, held_out, metrics, facts, {"calibration": counts})


def _demonstrations(stage: Stage, count: int) -> Demonstrations:
    """Held-out demonstrations to calibrate on, chosen over all datasets.

    Raises:
        DataError: there are too few, or all are alike.
    """
    folders = {path.parent.name: path.parent / "data" for path in stage.inputs["demonstrations"]}
    rows = Mixture(folders, {}, "validation")
    return demonstrations(f"reward.{stage.name}", rows, count)


if __name__ == "__main__":
    main(run)
