"""A reward model on top of an SFT checkpoint."""

from itertools import islice

import torch

from rlhf.data.mixture import Mixture
from rlhf.errors import DataError
from rlhf.evaluation.statistics import calibration_curve
from rlhf.models.load import freeze_lower_layers, load_tokenizer
from rlhf.models.precision import use_precision
from rlhf.models.reward import new_reward_model, save_calibration
from rlhf.runtime import distributed
from rlhf.runtime.files import write_json
from rlhf.stages.model_needs import check_needs, check_tokenized
from rlhf.stages.stage import Stage, main
from rlhf.stages.training import begin, mixture, publish_model, tokenizer_facts
from rlhf.training.batches import check_batches
from rlhf.training.loop import train
from rlhf.training.reward import (
    RewardObjective,
    calibrate,
    score_differences,
    score_held_out,
)


def run(stage: Stage) -> None:
    """Train, calibrate, then publish ``model/``, ``metrics.jsonl`` and ``evaluation.json``."""
    threads = begin()
    config, tokens = stage.config, stage.micro_batch_tokens
    check_batches("reward", stage.name, config, distributed.world_size())
    facts = tokenizer_facts(stage, "start", "data", "demonstrations")
    start = stage.folder("start") / "model"
    check_needs(stage, start, {})
    check_tokenized(stage, start, "data")
    check_tokenized(stage, start, "demonstrations")
    model = new_reward_model(start, config["seed"]).to(distributed.device())
    freeze_lower_layers(model, config["freeze_layers"])
    use_precision(model, config["precision"])
    data, held_out = mixture(stage, "data", "train"), mixture(stage, "data", "validation")
    demonstrations = _demonstrations(stage)
    objective = RewardObjective(config["score_l2"], tokens)

    scored: list[torch.Tensor] = []  # of the held-out rows, when last validated

    def validate() -> dict[str, float]:
        scored[:] = score_held_out(model, held_out, tokens)
        return objective.validate(scored)

    finished = train(model, objective, data, config, stage.run_options(threads), tokens, validate)
    if not scored:  # there was nothing left to train
        validate()
    mean, std = calibrate(model, islice(demonstrations, config["calibration_samples"]), tokens)
    differences = score_differences(scored)
    publish_model(
        model,
        load_tokenizer(start),
        stage.outputs["model"],
        lambda folder: save_calibration(folder, mean, std),
    )
    finished.publish(metrics=stage.outputs["metrics"])
    if distributed.rank() == 0:
        curve = calibration_curve(differences) if differences else []
        write_json(stage.outputs["evaluation"], {"calibration": curve})
        measures = ("validation_loss", "validation_accuracy", "validation_kendall_tau")
        stage.finish(
            counts={
                "train_rows": len(data),
                "epoch_rows": data.epoch_rows,
                "validation_rows": len(held_out),
            },
            metrics=finished.last_metrics(*measures)
            | {"calibration_mean": mean, "calibration_std": std},
            facts=facts | {"threads": threads, "processes": distributed.world_size()},
        )
        finished.mark_published()
    distributed.finish()


def _demonstrations(stage: Stage) -> Mixture:
    """All held-out demonstrations.

    Raises:
        DataError: there are none to calibrate on.
    """
    folders = {path.parent.name: path.parent / "data" for path in stage.inputs["demonstrations"]}
    data = Mixture(folders, {}, "validation")
    if len(data) < 2:
        raise DataError(
            "There are no held-out demonstrations to calibrate the reward model on.",
            where=f"reward.{stage.name}.data",
            expected="a dataset with two or more",
            hint="raise the `validation_fraction` of a dataset",
        )
    return data


if __name__ == "__main__":
    main(run)
