"""A run whose numbers are not finite ends with their name; what it saved before is good."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.programs import diverging_ranks
from support.programs.supervised_ranks import config, make_rows, save_set, train_root
from support.tiny_models import reply_scorer, run_ranks, save_rows, token_scorer, token_sequences
from support.tiny_settings import reward_config

from rlhf.algorithms.reward import RewardObjective
from rlhf.algorithms.sft import SftObjective
from rlhf.data.mixture import Mixture
from rlhf.errors import NumericsError
from rlhf.evaluation.calibration import calibrate
from rlhf.evaluation.held_out import HeldOut
from rlhf.runtime.options import RunOptions
from rlhf.training.loop import mean_over


@pytest.fixture
def mixture(tmp_path):
    save_set(tmp_path)  # 9 rows in batches of 4: three steps an epoch
    return Mixture({"d": tmp_path / "set"}, {}, "train")


def optimizer(rate: float, **more) -> dict:
    return {"learning_rate": rate, "schedule": "constant", "warmup": 0.0, **more}


def saved_weights(state: Path) -> list[torch.Tensor]:
    files = sorted(state.glob("*/step-*/engine-*.safetensors"))
    return [weights for file in files for weights in load_file(file).values()]


@pytest.mark.parametrize("rate", [1e30, 1e38])
def test_sft_with_a_rate_that_breaks_the_model(tmp_path, mixture, rate):
    options = RunOptions("train_sft.chat", tmp_path / "state", {}, save_steps=1)
    settings = config(optimizer=optimizer(rate))
    with pytest.raises(NumericsError) as caught:
        train_root(token_scorer(0), SftObjective(), mixture, settings, options, 64, dict)
    text = str(caught.value)
    assert "train_sft.chat, step " in text
    assert f"learning rate {rate:g}" in text
    assert f"lower `optimizer.learning_rate` (it is {rate:g}), set `precision: float32`" in text
    assert "loss is nan" in text or "weights hold NaN or infinity" in text
    assert all(bool(torch.isfinite(each).all()) for each in saved_weights(tmp_path / "state"))


def test_the_last_step_is_looked_at_too(tmp_path):
    save_rows(tmp_path / "set", train=make_rows()[:4])
    options = RunOptions("train_sft.chat", tmp_path / "state", {})
    broken = config(optimizer=optimizer(1e38, weight_decay=100.0))
    data = Mixture({"d": tmp_path / "set"}, {}, "train")
    with pytest.raises(NumericsError, match=r"of the weights hold NaN or infinity: .*layers") as e:
        train_root(token_scorer(0), SftObjective(), data, broken, options, 64, dict)
    assert "train_sft.chat, step 1, learning rate 1e+38" in str(e.value)
    assert saved_weights(tmp_path / "state") == []


def test_a_held_out_loss_that_is_not_finite(tmp_path, mixture):
    looks = iter([{"validation_loss": 2.0}, {"validation_loss": float("nan")}])
    options = RunOptions("train_sft.chat", tmp_path / "state", {})
    with pytest.raises(NumericsError, match="validation_loss is nan") as caught:
        train_root(token_scorer(0), SftObjective(), mixture, config(evaluations=1), options, 64,
              lambda: next(looks))  # fmt: skip
    assert "step 3, learning rate" in str(caught.value)


def test_an_infinite_gradient_of_a_finite_loss_is_not_applied(tmp_path, mixture):
    model = token_scorer(0)
    before = [p.detach().clone() for p in model.parameters()]

    class Steep(SftObjective):
        def __call__(self, scorer, rows):
            loss, sums = super().__call__(scorer, rows)
            weight = model.model.lm_head.weight.flatten()[0]
            return loss + (weight - weight.detach()).abs().sqrt(), sums  # slope at 0: infinite

    options = RunOptions("train_sft.chat", tmp_path / "s", {})
    with pytest.raises(NumericsError, match=r"grad_norm is (nan|inf)") as caught:
        train_root(model, Steep(), mixture, config(), options, 64, dict)
    assert "step 1, learning rate 0.01" in str(caught.value)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_weights_that_a_run_starts_from_are_looked_at(tmp_path, mixture):
    model = token_scorer(0)
    with torch.no_grad():
        model.model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    options = RunOptions("train_sft.chat", tmp_path / "state", {})
    with pytest.raises(NumericsError, match=r"layers\.1\.mlp\.up_proj\.weight") as caught:
        train_root(model, SftObjective(), mixture, config(), options, 64, dict)
    assert "before the first step" in str(caught.value)


def test_rows_without_a_label_have_no_mean(tmp_path):
    rows = [row | {"labels": [-100] * len(row["labels"])} for row in make_rows()[:4]]
    save_rows(tmp_path / "set", train=rows)
    options = RunOptions("train_sft.chat", tmp_path / "state", {})
    with pytest.raises(NumericsError, match="No token of this step"):
        train_root(token_scorer(0), SftObjective(), Mixture({"d": tmp_path / "set"}, {}, "train"),
              config(), options, 64, dict)  # fmt: skip


def test_all_ranks_end_and_name_the_row(tmp_path):
    """One rank alone has the row: none may wait for it."""
    diverging_ranks.save_set(tmp_path)
    run_ranks(Path(diverging_ranks.__file__), tmp_path)
    found = [torch.load(tmp_path / f"rank-{rank}.pt") for rank in range(2)]
    assert [one["rank"] for one in found] == [0, 1]
    for one in found:
        assert "loss is nan" in one["error"]
        assert "train_sft.x, step 1, learning rate 0.01; rows " in one["error"]
        assert "d row-2" in one["error"]
        assert "precision: float32" in one["error"]
        assert one["untouched"]


def test_reward_training_names_its_loss(tmp_path):
    ids = [one.tolist() for one in token_sequences([5, 4, 3], seed=4)]
    rows = [{"id": "7", "history_ids": ids[0], "reply_ids": ids[1:]}]
    save_rows(tmp_path / "set", train=rows)
    model = reply_scorer(1)
    with torch.no_grad():
        model.model.score.weight.fill_(3e38)
    options = RunOptions("train_reward.helpful", tmp_path / "state", {})
    data = Mixture({"d": tmp_path / "set"}, {}, "train")
    with pytest.raises(NumericsError, match=r"loss is (nan|inf)") as caught:
        train_root(
            model, RewardObjective(reward_config(0.01), True), data, config(), options, 64, dict
        )
    assert "train_reward.helpful, step 1" in str(caught.value)
    assert "rows d 7" in str(caught.value)


def demonstrations(count: int, seed: int = 5) -> list[dict]:
    sequences = token_sequences([6 + n % 5 for n in range(count)], seed=seed)
    return [{"dataset": "d", "id": str(i), "input_ids": ids.tolist(), "labels": ids.tolist()}
            for i, ids in enumerate(sequences)]  # fmt: skip


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_calibration_refuses_scores_that_differ_by_rounding_alone(precision):
    model = reply_scorer(3)
    with torch.no_grad():  # one direction that every state has alike
        model.model.score.weight.zero_()
        model.model.model.norm.weight.zero_()
    model.compute_in(precision)
    with pytest.raises(NumericsError, match="12 held-out demonstrations the same score"):
        calibrate(model, demonstrations(12), 100)
    alike = demonstrations(1) * 12
    model = reply_scorer(3)
    model.compute_in(precision)
    with pytest.raises(NumericsError, match="standard deviation"):
        calibrate(model, alike, 100)


def test_calibration_names_the_rows_whose_scores_are_not_finite():
    model = reply_scorer(3)
    with torch.no_grad():
        model.model.score.weight.fill_(3e38)
    with pytest.raises(NumericsError, match="reward model's scores: 12 of the rows") as caught:
        calibrate(model, demonstrations(12), 100)
    assert "rows d 0, d 1" in str(caught.value)


def test_a_small_spread_of_scores_is_a_calibration():
    model = reply_scorer(3)
    with torch.no_grad():
        model.model.score.weight *= 1e-4
    mean, std = calibrate(model, demonstrations(12), 100)
    assert 0 < std < 1e-2
    assert abs(mean) < 1e-2


def test_measures_of_a_broken_model_are_not_finite():
    """What the checks see: sums over rows do not hide a NaN."""
    model = token_scorer(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    rows = make_rows()[:3]
    assert not torch.isfinite(torch.tensor(mean_over(model, SftObjective(), rows, 64)["loss"]))
    judge, objective = reply_scorer(1), RewardObjective(reward_config(0.01), True)
    with torch.no_grad():
        judge.model.score.weight[0, 0] = float("nan")
    ids = [one.tolist() for one in token_sequences([5, 4, 3], seed=4)]
    held_out = [{"history_ids": ids[0], "reply_ids": ids[1:]}]
    found = HeldOut(objective, held_out, 64).validate(judge)
    assert not torch.isfinite(torch.tensor(found["validation_loss"]))
    assert not torch.isfinite(torch.tensor(found["validation_calibration_error"]))
