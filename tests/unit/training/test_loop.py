from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from support.programs import supervised_ranks
from support.programs.supervised_ranks import config, make_rows, save_set, train_root
from support.tiny_models import assert_close, gradients, run_ranks, save_rows, token_scorer
from support.tolerances import assert_gradients_near

from rlhf.algorithms.sft import SftObjective
from rlhf.data.mixture import Mixture, Share
from rlhf.runtime.deadline import Saved
from rlhf.runtime.options import RunOptions
from rlhf.training import loop
from rlhf.training.engine.replicated import Replicated
from rlhf.training.loop import mean_over


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sft")
    save_set(folder)
    return Mixture({"d": folder / "set"}, {}, "train")


@pytest.mark.parametrize("frozen", [0, 1])
def test_accumulation_is_exact(monkeypatch, tmp_path, mixture, frozen):
    """Checklist 32"""
    found = {}
    for tokens in (1, 60, 10_000):  # row by row, some together, all at once
        model, steps = token_scorer(0), []
        model.freeze(frozen)
        calls = []

        class Counting(SftObjective):
            def __call__(self, scorer, rows, calls=calls):
                calls.append(len(rows))
                return super().__call__(scorer, rows)

        def keep(engine, factor, model=model, steps=steps):
            steps.append(gradients(model))
            model.zero_grad()
            return 0.0

        monkeypatch.setattr(Replicated, "step", keep)
        options = RunOptions("x", tmp_path / str(tokens), {})
        train_root(model, Counting(), mixture, config(global_batch_size=8), options, tokens, dict)
        found[tokens] = steps[0], calls
    assert found[1][1] == [1] * 9
    assert found[10_000][1] == [8, 1]
    assert_gradients_near(found[1][0], found[10_000][0])
    assert_gradients_near(found[60][0], found[10_000][0])
    # token-weighted: not the mean of the rows' means
    rows = [mixture[int(i)] for i in mixture.order(0, 0)[:8]]
    model = token_scorer(0)
    model.freeze(frozen)
    for row in rows:
        loss, _ = SftObjective()(model, [row])
        (loss / SftObjective().weight(row) / 8).backward()
    name = "model.model.layers.1.mlp.up_proj.weight"
    assert not torch.allclose(gradients(model)[name], found[1][0][name], atol=1e-4)


def run_once(folder: Path, mixture, precision="float32", **options) -> tuple:
    model = token_scorer(0)
    model.compute_in(precision)
    model.freeze(1)
    objective = SftObjective()

    def validate():
        return {
            "validation_loss": mean_over(model, objective, [mixture[0], mixture[5]], 64)["loss"]
        }

    run = train_root(
        model, objective, mixture, config(epochs=2),
        RunOptions("sft.x", folder, {"seed": 0}, **options), 40, validate,
    )  # fmt: skip
    run.publish(metrics=folder / "metrics.jsonl")
    return model, (folder / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_run_in_two_parts_is_the_same_run(tmp_path, mixture, monkeypatch, precision):
    """Checklist 40"""
    straight, metrics = run_once(tmp_path / "straight", mixture, precision)
    original, calls = Replicated.step, []

    def interrupted(engine, factor):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(engine, factor)

    monkeypatch.setattr(Replicated, "step", interrupted)
    with pytest.raises(Saved, match="after step 3 of 6"):
        run_once(tmp_path / "parts", mixture, precision)
    assert len(calls) == 3
    parts, again = run_once(tmp_path / "parts", mixture, precision)
    assert len(calls) == 6
    assert metrics == again
    for left, right in zip(straight.parameters(), parts.parameters(), strict=True):
        assert torch.equal(left, right)
    run_once(tmp_path / "parts", mixture, precision)
    assert len(calls) == 6, "a finished run is not repeated"


def test_a_mixture_goes_on_in_the_middle_of_an_epoch(tmp_path, monkeypatch):
    """Shares that are drawn anew in every epoch and batches of like lengths, with the same bits."""
    rows = make_rows()
    folders = {name: save_rows(tmp_path / name, train=rows) for name in ("a", "b")}
    shares = {"a": Share(size=5, weight=1.0), "b": Share(0.5, weight=2.0)}
    data = Mixture(folders, shares, "train")
    settings = config(epochs=3, global_batch_size=2, length_grouping=2)
    original = Replicated.step

    def run(name: str, stop: int = 0) -> list[torch.Tensor]:
        model, calls = token_scorer(0), []

        def step(engine, factor):
            calls.append(1)
            if len(calls) == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(engine, factor)

        monkeypatch.setattr(Replicated, "step", step)
        options = RunOptions("sft.x", tmp_path / name, {})
        train_root(model, SftObjective(), data, settings, options, 64, dict)
        return list(model.parameters())

    assert data.rows_per_epoch == 9
    straight = run("straight")
    for stop, done in ((3, 3), (5, 8)):  # in the first epoch, and in the second
        with pytest.raises(Saved, match=f"after step {done} of 15"):
            run("parts", stop)
    for left, right in zip(straight, run("parts"), strict=True):
        assert torch.equal(left, right)


def test_training_learns_and_records(tmp_path, mixture):
    """Checklist 13"""
    import json

    _, metrics = run_once(tmp_path, mixture)
    records = [json.loads(line) for line in metrics.splitlines()]
    looks = [r["validation_loss"] for r in records if "validation_loss" in r]
    assert [r["step"] for r in records if "validation_loss" in r] == [0, 3, 6]
    assert looks[-1] < looks[0] - 0.1
    steps = [r for r in records if "loss" in r]
    assert [r["learning_rate"] for r in steps] == pytest.approx(
        [1e-2 * (6 - i) / 6 for i in range(6)]
    )
    assert [r["epoch"] for r in steps] == pytest.approx([(i + 1) / 3 for i in range(6)])
    assert sum(r["tokens"] for r in steps) == 2 * sum(len(r["input_ids"]) for r in make_rows())


def test_mean_over_is_weighted_by_tokens(mixture):
    model, objective = token_scorer(0), SftObjective()
    rows = [mixture[i] for i in range(5)]
    losses = [float(objective(model, [row])[0].detach()) for row in rows]
    expected = sum(losses) / sum(map(objective.weight, rows))
    for tokens in (1, 50, 1000):
        assert mean_over(model, objective, rows, tokens)["loss"] == pytest.approx(
            expected, rel=1e-5
        )


def test_two_ranks_train_the_same_model_as_one(tmp_path):
    """Checklist 32, 36"""
    save_set(tmp_path)
    run_ranks(Path(supervised_ranks.__file__), tmp_path)
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt") for rank in range(2))
    alone = supervised_ranks.work(tmp_path, tmp_path / "alone")
    for name, parameter in first["model"].items():
        assert torch.equal(parameter, second["model"][name]), name
    assert_close(first["model"], alone["model"], atol=2e-4)
    initial = dict(token_scorer(0).named_parameters())
    moved = max(float((p - initial[n]).abs().max().detach()) for n, p in first["model"].items())
    assert moved > 5e-3
    assert first["held_out"] == second["held_out"]
    assert first["held_out"]["loss"] == pytest.approx(alone["held_out"]["loss"], rel=1e-6)
    assert len(first["metrics"]) == len(alone["metrics"])
    for left, right in zip(first["metrics"], alone["metrics"], strict=True):
        assert left == pytest.approx(right, rel=1e-3)


class FirstLoss:
    """A ``Prepared``: the loss of a row under the weights that training starts from."""

    def __init__(self, model, row) -> None:
        self.model, self.row, self.computed = model, row, 0
        self.value = torch.tensor(0.0)

    def compute(self) -> None:
        self.computed += 1
        with torch.no_grad():
            self.value = SftObjective()(self.model, [self.row])[0]

    def state(self) -> dict:
        return {"value": self.value}

    def restore(self, state: dict) -> None:
        self.value = state["value"]


def test_what_is_computed_once_goes_on_with_the_run(tmp_path, monkeypatch, mixture):
    original, calls = Replicated.step, []

    def interrupted(engine, factor):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(engine, factor)

    monkeypatch.setattr(Replicated, "step", interrupted)

    def run() -> FirstLoss:
        model = token_scorer(0)
        first = FirstLoss(model, mixture[0])
        options = RunOptions("sft.x", tmp_path, {})
        seen = []

        def validate():
            seen.append(float(first.value))
            return {}

        try:
            train_root(model, SftObjective(), mixture, config(), options, 64, validate, first)
        finally:
            with torch.no_grad():
                now = float(SftObjective()(model, [mixture[0]])[0])
            assert now < float(first.value), "the model has not learned"
            assert set(seen) == {float(first.value)}
        return first

    with pytest.raises(Saved, match="after step 2 of 3"):
        run()
    model = token_scorer(0)
    with torch.no_grad():
        untrained = float(SftObjective()(model, [mixture[0]])[0])
    resumed = run()
    assert resumed.computed == 0
    assert float(resumed.value) == untrained


@pytest.mark.parametrize("at_a_time", [2, 100])
@pytest.mark.parametrize("tokens", [1, 40, 10_000])
def test_rows_are_mapped_in_their_order(monkeypatch, mixture, at_a_time, tokens):
    monkeypatch.setattr(loop, "ROWS_AT_A_TIME", at_a_time)
    groups = []

    def compute(rows):
        groups.append(len(rows))
        return [torch.tensor(row["input_ids"][:2], dtype=torch.float32) for row in rows]

    found = loop.map_rows(compute, SftObjective().shape, iter(mixture), tokens)
    assert [each.tolist() for each in found] == [row["input_ids"][:2] for row in mixture]
    assert sum(groups) == len(mixture)
    assert max(groups) == (1 if tokens == 1 else min(at_a_time, {40: 3, 10_000: 9}[tokens]))
