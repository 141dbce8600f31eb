"""A reward model on top of an SFT checkpoint."""

from itertools import islice

from rlhf.models.load import freeze_lower_layers, load_tokenizer
from rlhf.models.reward import new_reward_model, save_calibration
from rlhf.runtime import distributed
from rlhf.stages.stage import Stage, main
from rlhf.stages.training import begin, mixture, publish_model, tokenizer_facts
from rlhf.training.batches import check_batches
from rlhf.training.loop import mean_over, train
from rlhf.training.reward import RewardObjective, calibrate


def run(stage: Stage) -> None:
    """Train, calibrate, then publish ``model/`` and ``metrics.jsonl``."""
    threads = begin()
    config, tokens = stage.config, stage.micro_batch_tokens
    check_batches("reward", stage.name, config, distributed.world_size())
    facts = tokenizer_facts(stage, "sft", "data", "demonstrations")
    start = stage.folder("sft") / "model"
    model = new_reward_model(start, config["seed"]).to(distributed.device())
    freeze_lower_layers(model, config["freeze_layers"])
    data, held_out = mixture(stage, "data", "train"), mixture(stage, "data", "validation")
    objective = RewardObjective(config["score_l2"], tokens)

    def validate() -> dict[str, float]:
        measures = mean_over(model, objective, held_out, tokens)
        return {f"validation_{name}": value for name, value in measures.items()}

    finished = train(model, objective, data, config, stage.run_options(threads), tokens, validate)
    demonstrations = mixture(stage, "demonstrations", "validation")
    chosen = islice(demonstrations, config["calibration_samples"])
    mean, std = calibrate(model, chosen, tokens)
    publish_model(
        model,
        load_tokenizer(start),
        stage.outputs["model"],
        lambda folder: save_calibration(folder, mean, std),
    )
    finished.publish(metrics=stage.outputs["metrics"])
    if distributed.rank() == 0:
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
