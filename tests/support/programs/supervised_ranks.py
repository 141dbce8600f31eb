"""One rank of a small SFT run whose last batch leaves a rank without rows."""

from __future__ import annotations

from pathlib import Path

from rlhf.algorithms.sft import SftObjective
from rlhf.config.sft import SftConfig
from rlhf.data.mixture import Mixture
from rlhf.runtime.options import RunOptions
from rlhf.training.engine.replicated import Replicated
from rlhf.training.loop import mean_over, train
from support.tiny_models import rank_main, save_rows, token_scorer, token_sequences

ROWS, BATCH = 9, 4  # three steps, the last of one row


def make_rows() -> list[dict]:
    sequences = token_sequences([6 + 5 * (i % 4) for i in range(ROWS)], seed=1)
    return [{"input_ids": s.tolist(), "labels": s.tolist()} for s in sequences]


def config(**changes) -> SftConfig:
    optimizer = {"learning_rate": 1e-2, "schedule": "linear", "warmup": 0.0, "eps": 1e-3}
    values = {"model": "m", "data": {"d": {}}, "global_batch_size": BATCH, "optimizer": optimizer}
    return SftConfig.model_validate(values | changes)


def replicated(root, settings: SftConfig) -> Replicated:
    """An engine as the stages make it."""
    return Replicated(root, {"": settings.optimizer.learning_rate}, settings.optimizer)


def train_root(root, objective, data, settings: SftConfig, *rest):
    """``train`` a root with an engine around it."""
    return train(replicated(root, settings), objective, data, settings, *rest)


def work(folder: Path, state: Path) -> dict:
    model, objective = token_scorer(0), SftObjective()
    mixture = Mixture({"d": folder / "set"}, {}, "train")
    held_out = mean_over(model, objective, [mixture[0]], 64)
    run = train_root(
        model, objective, mixture, config(length_grouping=2), RunOptions("sft.x", state, {}), 40,
        lambda: {"validation_loss": held_out["loss"]},
    )  # fmt: skip
    return {
        "held_out": held_out,
        "model": {name: p.detach() for name, p in model.named_parameters()},
        "metrics": run.journals["metrics"].records(),
    }


def save_set(folder: Path) -> None:
    save_rows(folder / "set", train=make_rows())


if __name__ == "__main__":
    rank_main(work)
