"""A reward model on top of an SFT checkpoint."""

from itertools import islice

import torch

from rlhf.evaluation.statistics import calibration_curve
from rlhf.models.load import freeze_lower_layers, load_tokenizer
from rlhf.models.reward import new_reward_model, save_calibration
from rlhf.runtime import distributed
from rlhf.runtime.files import write_json
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
    facts = tokenizer_facts(stage, "sft", "data", "demonstrations")
    start = stage.folder("sft") / "model"
    model = new_reward_model(start, config["seed"]).to(distributed.device())
    freeze_lower_layers(model, config["freeze_layers"])
    data, held_out = mixture(stage, "data", "train"), mixture(stage, "data", "validation")
    objective = RewardObjective(config["score_l2"], tokens)

    scored: list[torch.Tensor] = []  # of the held-out rows, when last validated

    def validate() -> dict[str, float]:
        scored[:] = score_held_out(model, held_out, tokens)
        return objective.validate(scored)

    finished = train(model, objective, data, config, stage.run_options(threads), tokens, validate)
    if not scored:  # there was nothing left to train
        validate()
    demonstrations = mixture(stage, "demonstrations", "validation")
    chosen = islice(demonstrations, config["calibration_samples"])
    mean, std = calibrate(model, chosen, tokens)
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
            counts={"train_rows": len(data), "validation_rows": len(held_out)},
            metrics=finished.last_metrics(*measures)
            | {"calibration_mean": mean, "calibration_std": std},
            facts=facts | {"threads": threads, "processes": distributed.world_size()},
        )
    distributed.finish()


if __name__ == "__main__":
    main(run)
