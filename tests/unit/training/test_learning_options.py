"""Dropout, noise, averages and the choice of weights, on two ranks by every kind of engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.programs import learning_ranks
from support.programs.learning_ranks import BEST, KINDS, STEPS, run, save_sets, settings
from support.tiny_models import run_ranks

pytestmark = pytest.mark.slow

PLAIN = {"residual_dropout": {"rate": 0.0}, "neftune_alpha": None, "ema": None, "selection": {}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What each of two ranks came to, and their folder."""
    folder = tmp_path_factory.mktemp("learning")
    save_sets(folder)
    run_ranks(Path(learning_ranks.__file__), folder, timeout=600)
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(2)], folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_in_two_parts_ends_with_the_same_bytes(runs, kind):
    for rank in runs[0]:
        assert "after step 3 of 6" in rank[kind]["stopped"]
        for name, tensor in rank[kind]["straight"].items():
            assert torch.equal(tensor, rank[kind]["parts"][name]), name
        assert rank[kind]["metrics"] == rank[kind]["again"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_validated_weights_are_the_result(runs, kind):
    """Averaged ones: those that were validated."""
    for rank in runs[0]:
        assert rank[kind]["kept"] == BEST
        validated = rank[kind]["validated"]
        assert len(validated) == STEPS + 1
        for name, tensor in rank[kind]["straight"].items():
            assert torch.equal(tensor, validated[BEST][name]), name
        assert not torch.equal(validated[BEST]["model.lm_head.weight"],
                               validated[-1]["model.lm_head.weight"])  # fmt: skip


@pytest.mark.parametrize("kind", KINDS[1:])
def test_engines_agree(runs, kind):
    (first, second), _ = runs
    for name, tensor in first[kind]["straight"].items():
        assert torch.equal(tensor, second[kind]["straight"][name]), name
        torch.testing.assert_close(tensor, first["replicated"]["straight"][name],
                                   atol=1e-4, rtol=1e-3)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_averages_are_in_the_state_by_name(runs, kind):
    """Of the last state and of the best; no other is kept but the one before the last."""
    (folder,) = (runs[1] / "state" / kind).glob("*")
    assert {path.name for path in folder.glob("step-*")} == {
        f"step-{step:08d}" for step in (BEST, STEPS)
    }
    saved = {
        name: tensor
        for path in (folder / f"step-{BEST:08d}").glob("engine-*.safetensors")
        for name, tensor in load_file(path).items()
    }
    straight = runs[0][0][kind]["straight"]
    averages = {name for name in saved if name.startswith("average/")}
    assert averages == {f"average/{name}" for name in straight}
    for name, tensor in straight.items():
        assert torch.equal(saved[f"average/{name}"], tensor), name
        assert saved[f"average/{name}"].dtype == torch.float32


def test_figures_of_each_dataset(runs):
    for record in runs[0][0]["replicated"]["metrics"]:
        for figure in ("validation_loss", "validation_cross_entropy"):
            if figure in record:
                both = {record[f"{figure}/a"], record[f"{figure}/b"]}
                assert min(both) < record[figure] < max(both)
            else:
                assert "loss" in record


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Weights in the end and at the validations, by options, in one process."""
    folder = tmp_path_factory.mktemp("alone")
    save_sets(folder)
    known: dict[str, tuple] = {}

    def train(**changes):
        name = str(sorted(changes.items()))
        if name not in known:
            path = folder / f"state-{len(known)}"
            known[name] = run("replicated", folder, path, settings(**PLAIN | changes))
        return known[name]

    return train


@pytest.mark.parametrize("option", [
    {"residual_dropout": {"rate": 0.2}},
    {"residual_dropout": {"rate": 0.2, "ramp": "linear"}},
    {"neftune_alpha": 5.0},
    {"loss": {"kind": "cross_entropy"}},
    {"ema": {"decay": 0.7}},
])  # fmt: skip
def test_every_option_changes_what_is_learned(alone, option):
    plain, _, without, _ = alone()
    changed, _, metrics, _ = alone(**option)
    assert any(not torch.equal(changed[name], tensor) for name, tensor in plain.items())
    first, expected = metrics[0]["validation_loss"], without[0]["validation_loss"]
    assert (first == expected) == ("loss" not in option), "validation knows no dropout and no noise"


def test_an_average_is_that_of_the_weights(alone):
    """In float64, from the weights after each step of the same run without an average."""
    _, weights, plain, _ = alone()
    averaged, validated, metrics, _ = alone(ema={"decay": 0.7})
    expected = {name: tensor.double() for name, tensor in weights[0].items()}
    for step, after in enumerate(weights[1:], start=1):
        for name, tensor in after.items():
            expected[name] = 0.7 * expected[name] + 0.3 * tensor.double()
            torch.testing.assert_close(
                validated[step][name].double(), expected[name], atol=1e-6, rtol=1e-5
            )
    for name, tensor in averaged.items():
        assert torch.equal(tensor, validated[-1][name]), name
    losses = [[record["loss"] for record in each if "loss" in record] for each in (plain, metrics)]
    assert losses[0] == losses[1], "what goes on training is not the average"


def test_training_ends_after_patience(alone):
    """Gains after steps 1 and 2, then none: 2, 2.5 and 2 are not above 3."""
    _, weights, _, _ = alone()
    selection = {"measure": "validation_score", "patience": 2}
    last, _, metrics, done = alone(selection=selection)
    assert [record["step"] for record in metrics][-1] == 4
    assert done.kept_step is None
    for name, tensor in last.items():
        assert torch.equal(tensor, weights[4][name]), name
    best, _, _, done = alone(selection=selection | {"keep": "best"})
    assert done.kept_step == BEST
    for name, tensor in best.items():
        assert torch.equal(tensor, weights[BEST][name]), name


def test_a_run_that_ended_early_is_not_taken_up_again(tmp_path):
    save_sets(tmp_path)
    early = settings(selection={"measure": "validation_score", "patience": 1, "keep": "best"})
    first, _, metrics, _ = run("replicated", tmp_path, tmp_path / "state", early)
    again, validated, later, _ = run("replicated", tmp_path, tmp_path / "state", early)
    assert metrics == later
    assert validated == []
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name]), name
