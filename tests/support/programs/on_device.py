"""A tiny training on this process's device, its figures as JSON: on a GPU what it is on a CPU.

python -m support.programs.on_device sft replicated FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rlhf.algorithms.reward import RewardObjective
from rlhf.algorithms.sft import SftObjective
from rlhf.data.mixture import Mixture
from rlhf.models.devices import own_device
from rlhf.models.precision import exact_float32
from rlhf.online.reference import ReferenceModel
from rlhf.online.rewards import RewardModel
from rlhf.runtime.options import EngineOptions, RunOptions
from rlhf.training.engine.open import open_engine
from rlhf.training.loop import train
from rlhf.training.run import TrainingRun
from support import tiny_online
from support.programs.supervised_ranks import config, save_set
from support.tiny_models import reply_scorer, save_rows, token_scorer, token_sequences
from support.tiny_settings import reward_config


def supervised(method: str, engine_kind: str, folder: Path) -> TrainingRun:
    settings = config(precision="float32")
    if method == "sft":
        save_set(folder)
        root, objective = token_scorer(), SftObjective()
    else:
        history, *replies = (ids.tolist() for ids in token_sequences([4, 5, 3, 6], seed=1))
        rows = [{"history_ids": history, "reply_ids": replies[:k]} for k in (2, 3)]
        save_rows(folder / "set", train=rows)
        root, objective = reply_scorer(), RewardObjective(reward_config(0.001), branches=True)
    root.compute_in(settings.precision)
    rates = {"": settings.optimizer.learning_rate}
    engine = open_engine(root, rates, settings.optimizer, EngineOptions(engine_kind))
    data = Mixture({"d": folder / "set"}, {}, "train")
    options = RunOptions(method, folder / "state", {}, performance=folder / "x.perf.jsonl")
    return train(engine, objective, data, settings, options, 64, dict)


def ppo(folder: Path) -> TrainingRun:
    prompts, device = tiny_online.save_prompts(folder / "set"), own_device()
    return tiny_online.trainer(
        prompts, folder / "state", tiny_online.config(),
        RewardModel(tiny_online.judge().to(device), tiny_online.EOS, 64),
        ReferenceModel(tiny_online.policy().to(device), 1.0, 64),
    ).train()  # fmt: skip


def main(method: str, engine_kind: str, folder: Path) -> None:
    exact_float32()
    run = ppo(folder) if method == "ppo" else supervised(method, engine_kind, folder)
    print(json.dumps(run.journals["metrics"].records()))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
