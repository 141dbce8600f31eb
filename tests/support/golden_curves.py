"""Losses and figures of tiny trainings, step by step: what the golden files hold.

After a change that is meant to change results, write them again, and say so in the changelog:

    PYTHONPATH=tests .venv/bin/python -m support.golden_curves
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rlhf.algorithms.reward import RewardObjective
from rlhf.algorithms.sft import SftObjective
from rlhf.data.mixture import Mixture
from rlhf.runtime.options import RunOptions
from rlhf.training.run import TrainingRun
from support.programs import dpo_ranks, supervised_ranks
from support.tiny_models import reply_scorer, save_rows, token_scorer
from support.tiny_online import config as ppo_config
from support.tiny_online import save_prompts, trainer
from support.tiny_settings import reward_config

FOLDER = Path(__file__).parents[1] / "unit" / "training" / "golden"
# Of rounding, which differs between processors and libraries and adds up from step to step: a
# share of a figure for each step that was taken.
TOLERANCES = {"float32": 1e-5, "bfloat16": 1e-2}
COUNTED = ("step", "epoch", "tokens", "episodes", "optimizer_steps")  # these are exact

Records = list[dict[str, Any]]


def sft(folder: Path, precision: str = "float32", **changes: Any) -> Records:
    """Six updates of a language model."""
    save_rows(folder / "set", train=supervised_ranks.make_rows())
    root, data = token_scorer(0), Mixture({"d": folder / "set"}, {}, "train")
    root.compute_in(precision)
    settings = supervised_ranks.config(epochs=2, precision=precision, **changes)
    return _trained(root, SftObjective(), data, settings, folder)


def reward(folder: Path) -> Records:
    """Four updates of a reward model."""
    dpo_ranks.save_set(folder)
    data = Mixture({"d": folder / "set"}, {}, "train")
    settings = supervised_ranks.config(epochs=2)
    return _trained(
        reply_scorer(1), RewardObjective(reward_config(0.01), True), data, settings, folder
    )


def _trained(root: Any, objective: Any, data: Mixture, settings: Any, folder: Path) -> Records:
    options = RunOptions("golden", folder / "state", {})
    return _records(supervised_ranks.train_root(root, objective, data, settings, options, 64, dict))


def dpo(folder: Path) -> Records:
    """Four updates by DPO."""
    dpo_ranks.save_set(folder)
    run, _ = dpo_ranks.run_dpo(token_scorer(0), folder, folder / "state", dpo_ranks.config())
    return _records(run)


def ppo(folder: Path) -> Records:
    """Three rollouts, each with four updates of the policy and a value head."""
    settings = ppo_config(updates=3, epochs=2, minibatch_size=4)
    return _records(trainer(save_prompts(folder / "set"), folder / "state", settings).train())


def _records(run: TrainingRun) -> Records:
    return [record for record in run.journals["metrics"].records() if len(record) > 1]


CURVES: dict[str, Callable[[Path], Records]] = {
    "sft-float32": sft,
    "sft-bfloat16": lambda folder: sft(folder, "bfloat16"),
    "reward-float32": reward,
    "dpo-float32": dpo,
    "ppo-float32": ppo,
}


def differences(name: str, records: Records) -> list[str]:
    """What is outside of the tolerance of a golden file; it has the type in its name."""
    golden = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    share = TOLERANCES[name.rpartition("-")[2]]
    found = [] if len(golden) == len(records) else [f"{len(records)} steps, not {len(golden)}"]
    for number, (expected, record) in enumerate(zip(golden, records, strict=False), start=1):
        if expected.keys() != record.keys():
            found.append(f"{number}: {sorted(expected.keys() ^ record.keys())}")
            continue
        for key, value in expected.items():
            most = 0.0 if key in COUNTED else share * number * max(abs(value), 1e-2)
            if abs(record[key] - value) > most:
                found.append(f"{number}: {key} is {record[key]}, not {value}")
    return found


def main() -> None:
    """Write the golden files."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for name, curve in CURVES.items():
        with tempfile.TemporaryDirectory() as folder:
            lines = ",\n".join(json.dumps(record) for record in curve(Path(folder)))
        (FOLDER / f"{name}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
