"""docs/metrics.md names what tiny trainings log, and nothing else.

The stages' own figures are compared in tests/workflow/test_logged_figures.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import tiny_online
from support.page_tables import names, tables
from support.programs import dpo_ranks, ilql_ranks, kto_ranks
from support.programs.supervised_ranks import config, make_rows, train_root
from support.tiny_models import reply_scorer, save_rows, token_scorer, token_sequences
from support.tiny_settings import reward_config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlhf.algorithms.cpo import CpoLoss
from rlhf.algorithms.orpo import OrpoLoss
from rlhf.algorithms.ptx import Ptx
from rlhf.algorithms.replies import RankedObjective, RowLoss
from rlhf.algorithms.reward import RewardObjective
from rlhf.algorithms.sft import SftObjective
from rlhf.algorithms.simpo import SimpoLoss
from rlhf.config.cpo import CpoConfig
from rlhf.config.orpo import OrpoConfig
from rlhf.config.ppo import PtxConfig
from rlhf.config.reward import RewardConfig
from rlhf.config.simpo import SimpoConfig
from rlhf.data.mixture import Mixture
from rlhf.evaluation import agreement
from rlhf.evaluation.held_out import HeldOut
from rlhf.evaluation.statistics import calibration_curve
from rlhf.evaluation.summary import ModelSamples, summarize
from rlhf.runtime.options import RunOptions
from rlhf.training.loop import mean_over
from rlhf.training.run import TrainingRun

pytestmark = pytest.mark.usefixtures("leave_no_trace")

FIGURES = tables("metrics.md", "figure")
WITHOUT_CRITIC = "RLOO, GRPO and REINFORCE++"


def documented(section: str) -> set[str]:
    found = names(FIGURES[section])
    assert len(set(found)) == len(found), "a figure is in the section twice"
    return set(found)


def train_sft(folder: Path) -> TrainingRun:
    save_rows(folder / "set", train=make_rows())
    rows, model, objective = (
        Mixture({"d": folder / "set"}, {}, "train"),
        token_scorer(),
        SftObjective(),
    )

    def validate() -> dict[str, float]:
        measures = mean_over(model, objective, [rows[0]], 64)
        return {f"validation_{name}": value for name, value in measures.items()}

    options = RunOptions("sft.x", folder / "state", {}, tensorboard=folder / "events")
    return train_root(model, objective, rows, config(), options, 64, validate)


def train_reward(folder: Path) -> TrainingRun:
    history, *replies = (one.tolist() for one in token_sequences([4, 5, 3, 6], seed=1))
    rows = [{"history_ids": history, "reply_ids": replies[:k]} for k in (2, 3)]
    save_rows(folder / "set", train=rows)
    model, objective = reply_scorer(), RewardObjective(reward_config(0.001), branches=True)
    values = {"model": "m", "data": {"d": {}}, "global_batch_size": 2, "precision": "float32"}
    return train_root(
        model, objective, Mixture({"d": folder / "set"}, {}, "train"),
        RewardConfig.model_validate(values),
        RunOptions("reward.x", folder / "state", {}, tensorboard=folder / "events"), 64,
        lambda: HeldOut(objective, rows, 64).validate(model),
    )  # fmt: skip


def train_dpo(folder: Path) -> TrainingRun:
    dpo_ranks.save_set(folder)
    events, settings = folder / "events", dpo_ranks.config()
    return dpo_ranks.run_dpo(
        token_scorer(), folder, folder / "state", settings, tensorboard=events
    )[0]


def train_kto(folder: Path) -> TrainingRun:
    kto_ranks.save_set(folder)
    events, settings = folder / "events", kto_ranks.config(epochs=1)
    return kto_ranks.run_kto(
        token_scorer(), folder, folder / "state", settings, tensorboard=events
    )[0]


def train_ranked(folder: Path, loss: RowLoss, settings: Any) -> TrainingRun:
    dpo_ranks.save_set(folder)
    model, objective = token_scorer(), RankedObjective(loss, True)
    rows = Mixture({"d": folder / "set"}, {}, "train")

    def validate() -> dict[str, float]:
        measures = mean_over(model, objective, [rows[0]], 64)
        return {f"validation_{name}": value for name, value in measures.items()}

    options = RunOptions("x.x", folder / "state", {}, tensorboard=folder / "events")
    return train_root(model, objective, rows, settings, options, 64, validate)


RANKED = {"sft": "m", "data": {"d": {}}, "precision": "float32"}


def train_orpo(folder: Path) -> TrainingRun:
    settings = OrpoConfig.model_validate(RANKED)
    return train_ranked(folder, OrpoLoss(settings), settings)


def train_simpo(folder: Path) -> TrainingRun:
    settings = SimpoConfig.model_validate(RANKED)
    return train_ranked(folder, SimpoLoss(settings), settings)


def train_cpo(folder: Path) -> TrainingRun:
    settings = CpoConfig.model_validate(RANKED)
    return train_ranked(folder, CpoLoss(settings), settings)


def train_ilql(folder: Path) -> TrainingRun:
    dpo_ranks.save_set(folder)
    events, settings = folder / "events", ilql_ranks.config(epochs=1)
    return ilql_ranks.run_ilql(
        ilql_ranks.root(), folder, folder / "state", settings, tensorboard=events
    )[0]


def train_ppo(folder: Path) -> TrainingRun:
    prompts = tiny_online.save_prompts(folder / "set")
    return tiny_online.trainer(
        prompts, folder / "state", tiny_online.config(), tensorboard=folder / "events"
    ).train()


def train_rloo(folder: Path) -> TrainingRun:
    prompts = tiny_online.save_prompts(folder / "set")
    return tiny_online.trainer(
        prompts, folder / "state", tiny_online.rloo_config(), tensorboard=folder / "events"
    ).train()


@pytest.mark.parametrize(
    ("section", "training"),
    [
        ("SFT", train_sft),
        ("Reward model", train_reward),
        ("DPO", train_dpo),
        ("KTO", train_kto),
        ("ORPO", train_orpo),
        ("SimPO", train_simpo),
        ("CPO", train_cpo),
        ("ILQL", train_ilql),
        ("PPO", train_ppo),
        (WITHOUT_CRITIC, train_rloo),
    ],
)
def test_a_trainings_figures(tmp_path, section, training):
    records = training(tmp_path).journals["metrics"].records()
    logged = {name for record in records for name in record}
    assert logged == documented(section)
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    online = section in ("PPO", WITHOUT_CRITIC)
    phases = "Phases of on-policy methods" if online else "Phases of learning from a dataset"
    speed = documented("TensorBoard only") | documented(phases)
    assert set(events.Tags()["scalars"]) == logged - {"step"} | speed


def test_figures_of_dpo_with_a_term_of_sft(tmp_path):
    dpo_ranks.save_set(tmp_path)
    settings = dpo_ranks.config(epochs=1, sft_coefficient=0.5)
    run, _ = dpo_ranks.run_dpo(token_scorer(), tmp_path, tmp_path / "state", settings)
    logged = {name for record in run.journals["metrics"].records() for name in record}
    assert logged == documented("DPO") | documented("DPO: SFT's term")


@pytest.mark.parametrize(
    ("settings", "own"),
    [
        (tiny_online.reinforce_config(updates=1), set()),
        (tiny_online.grpo_config(updates=1), {"kl_loss"}),
        (tiny_online.grpo_config(updates=1, dynamic_sampling__max_rounds=2), None),
    ],
)
def test_figures_of_options(tmp_path, settings, own):
    prompts = tiny_online.save_prompts(tmp_path / "set")
    run = tiny_online.trainer(prompts, tmp_path / "state", settings).train()
    (record,) = run.journals["metrics"].records()
    optional = documented("Options of on-policy methods")
    expected = optional if own is None else own
    assert expected <= optional
    assert record.keys() == documented(WITHOUT_CRITIC) | expected


def test_a_compared_samplers_figures(tmp_path):
    prompts = tiny_online.save_prompts(tmp_path / "set")
    settings = tiny_online.config(updates=1, sampling__importance_cap=2.0)
    (record,) = (
        tiny_online.trainer(prompts, tmp_path / "state", settings)
        .train()
        .journals["metrics"]
        .records()
    )
    assert record.keys() == documented("PPO") | documented("Sampler and trainer")
    assert record["sampler_mismatch"] < 1e-4  # the same model, token by token and at once


def test_a_mixed_losses_figures(tmp_path):
    own = [{"id": "x", "input_ids": [3, 4, 5, 6], "labels": [-100, -100, 5, 6]}]
    rows = Mixture({"d": save_rows(tmp_path / "rows", train=own)}, {}, "train")
    settings = tiny_online.config(updates=1)
    mixed = Ptx(PtxConfig(data={"d": {}}), 2, rows, 0, 64)
    prompts = tiny_online.save_prompts(tmp_path / "set")
    learner = tiny_online.trainer(prompts, tmp_path / "state", settings, mixed=mixed)
    (record,) = learner.train().journals["metrics"].records()
    assert record.keys() == documented("PPO") | documented("Pretraining loss")


def test_an_evaluations_figures():
    samples = ModelSamples([0.0, 1.0], [1, 2], [True, False], [0.0, 0.5], [[1], [1, 2]], ["a", "b"])
    found = summarize({"sft": samples, "ppo": samples}, seed=0)
    figures: list[dict[str, Any]] = [*found["models"].values(), *found["comparisons"].values()]
    inner = [value for part in figures for value in part.values() if isinstance(value, dict)]
    logged = {name for part in [*figures, *inner] for name in part}
    assert logged == documented("Evaluation")
    scored = replace(samples, gold=[2.0, 1.0])
    found = summarize({"sft": scored, "ppo": scored}, seed=0)
    more = {name for parts in found.values() for part in parts.values() for name in part} - logged
    assert more == documented("Evaluation: gold reward model")


def test_a_calibration_curves_figures():
    (point,) = calibration_curve([0.5])
    assert point.keys() == documented("Reward model: calibration curve")


def test_an_agreements_figures():
    found = agreement.tables([agreement.ScoredRow("d", [1.0, 0.0], [3, 4])])
    (row,) = found["datasets"]
    assert row.keys() | {*found} == documented("Reward model: agreement")
