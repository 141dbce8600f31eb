"""float16: the loss is scaled, overflows are left out, and a run that can't go on ends."""

from __future__ import annotations

import pytest
import torch
from support.page_tables import names, tables
from support.programs.supervised_ranks import config, save_set, train_root
from support.tiny_models import token_scorer, token_sequences

from rlhf.algorithms.sft import SftObjective
from rlhf.config.training import OptimizerConfig
from rlhf.data.mixture import Mixture
from rlhf.errors import NumericsError
from rlhf.runtime.options import RunOptions
from rlhf.training.engine import scale
from rlhf.training.engine.replicated import Replicated
from rlhf.training.engine.scale import LossScale
from rlhf.training.run import TrainingRun


@pytest.fixture
def mixture(tmp_path):
    save_set(tmp_path)  # 9 rows in batches of 4: three steps an epoch
    return Mixture({"d": tmp_path / "set"}, {}, "train")


def root_in(precision: str) -> torch.nn.Module:
    root = token_scorer(0)
    root.compute_in(precision)
    return root


def norm_of(precision: str, share: float, factor: float | None = None) -> float:
    """The global norm that a small share of a loss gives, divided by the share."""
    engine = Replicated(root_in(precision), {"": 1e-3}, OptimizerConfig())
    if factor is not None:
        assert engine.loss_scale
        engine.loss_scale.factor = factor
    rows = token_sequences([12, 9, 7])
    logprobs, _ = engine(rows, [torch.arange(1, len(ids)) for ids in rows])
    engine.backward(-share * logprobs.sum(), last=True)
    return engine.step(1.0) / share


def test_only_float16_is_scaled():
    assert LossScale.of(root_in("float16")) == LossScale(2.0**16)
    assert LossScale.of(root_in("bfloat16")) is None
    assert LossScale.of(root_in("float32")) is None


def test_small_gradients_do_not_vanish():
    expected = norm_of("float32", 1e-8)
    assert norm_of("float16", 1e-8) == pytest.approx(expected, rel=1e-2)
    assert norm_of("float16", 1e-8, factor=1.0) < 0.5 * expected


def test_the_factor_falls_with_an_overflow_and_rises_without(monkeypatch):
    monkeypatch.setattr(scale, "INTERVAL", 3)
    chosen = LossScale(8.0)
    factors = []
    for norm in (1.0, float("inf"), 1.0, 1.0, 1.0, float("nan"), 1.0):
        chosen.update(norm)
        factors.append(chosen.factor)
    assert factors == [8, 4, 4, 4, 8, 4, 4]
    assert (chosen.since, chosen.skipped, chosen.overflowed) == (1, 2, False)
    chosen.factor = 2.0
    for exhausted in (False, True):
        chosen.update(float("inf"))
        assert (chosen.factor, chosen.exhausted) == (1.0, exhausted)
    highest = LossScale(scale.MAXIMUM, since=2)
    highest.update(1.0)
    assert highest.factor == scale.MAXIMUM


def train(folder, mixture, state: str, **options) -> tuple[list[dict], dict[str, torch.Tensor]]:
    root = root_in("float16")
    settings = config(precision="float16", epochs=3)
    options = RunOptions("train_sft.chat", folder / state, {}, **options)
    run = train_root(root, SftObjective(), mixture, settings, options, 40, dict)
    records = [each for each in run.journals["metrics"].records() if "loss" in each]
    return records, {name: p.detach() for name, p in root.named_parameters()}


def test_updates_that_overflow_are_left_out_and_counted(tmp_path, mixture, monkeypatch):
    """A factor far too large, as a first one may be: it falls until gradients fit."""
    monkeypatch.setattr(scale, "INITIAL", 2.0**23)
    before = {name: p.clone() for name, p in root_in("float16").named_parameters()}
    records, weights = train(tmp_path, mixture, "straight")
    skipped = records[-1]["skipped_steps"]
    assert 0 < skipped < len(records)
    assert set(LossScale(1.0).figures()) == set(names(tables("metrics.md", "figure")["float16"]))
    assert set(LossScale(1.0).figures()) < records[0].keys()
    assert records[-1]["loss_scale"] == 2.0 ** (23 - skipped)
    assert [("grad_norm" in each) for each in records].count(False) == skipped
    assert records[0]["loss"] != records[-1]["loss"]
    assert any(not torch.equal(weights[name], tensor) for name, tensor in before.items())


def test_a_run_in_two_parts_has_one_scale(tmp_path, mixture, monkeypatch):
    """Stopped between two updates that overflow."""
    monkeypatch.setattr(scale, "INITIAL", 2.0**23)
    straight, weights = train(tmp_path, mixture, "straight")
    assert straight[1]["skipped_steps"] == 2

    with monkeypatch.context() as patch:
        patch.setattr("rlhf.training.run.TrainingRun.finish_step", _stopping(2))
        with pytest.raises(Stopped):
            train(tmp_path, mixture, "parts", save_steps=1)
    monkeypatch.setattr(scale, "INITIAL", 1.0)  # what is saved counts
    again, resumed = train(tmp_path, mixture, "parts", save_steps=1)
    assert again == straight
    for name, tensor in weights.items():
        assert torch.equal(resumed[name], tensor), name


class Stopped(Exception):
    pass


def _stopping(steps: int):
    finish = TrainingRun.finish_step

    def finish_step(self, step, *rest, **more):
        finish(self, step, *rest, **more)
        if step == steps:
            raise Stopped

    return finish_step


def test_a_run_that_keeps_overflowing_ends_with_its_name(tmp_path, mixture, monkeypatch):
    monkeypatch.setattr(scale, "INITIAL", 2.0**23)
    monkeypatch.setattr(scale, "MINIMUM", 2.0**22)
    with pytest.raises(NumericsError) as caught:
        train(tmp_path, mixture, "state")
    text = str(caught.value)
    assert "gradients overflow float16" in text
    assert "train_sft.chat, step 2" in text
    assert "precision: float32" in text


def test_a_loss_that_is_not_a_number_ends_at_once(tmp_path, mixture):
    """No scale mends it."""
    root = root_in("float16")
    with torch.no_grad():
        root.model.model.layers[1].mlp.down_proj.weight.mul_(1e7)  # beyond float16's range
    options = RunOptions("train_sft.chat", tmp_path / "state", {})
    settings = config(precision="float16")
    with pytest.raises(NumericsError, match="loss is nan") as caught:
        train_root(root, SftObjective(), mixture, settings, options, 64, dict)
    assert "step 1, learning rate" in str(caught.value)
