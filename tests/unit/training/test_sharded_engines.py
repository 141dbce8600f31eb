"""Two real processes that hold slices of a model, against one that holds it whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.programs import sharded_ranks
from support.programs.sharded_ranks import KINDS, RESUMED, cases, work
from support.tiny_models import run_ranks

CASES = [name for name, *_ in cases()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What two ranks came to by every kind of engine, and one process; and their folder."""
    folder = tmp_path_factory.mktemp("sharded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "TORCH_DISTRIBUTED_DEBUG", "DETAIL")
        run_ranks(Path(sharded_ranks.__file__), folder)
    ranks = [torch.load(folder / f"rank-{rank}.pt") for rank in range(2)]
    return ranks, work(folder, folder / "alone"), folder


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    files = list(folder.glob("engine-*.safetensors"))
    return {name: tensor for path in files for name, tensor in load_file(path).items()}


def assert_like(left: torch.Tensor, right: torch.Tensor, largest: float, name: str) -> None:
    """Within 1e-5 of the largest, whose rounding all the others share in their sums."""
    assert (left - right).abs().max() <= 1e-5 * max(largest, 1e-6), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_losses_norms_and_gradients_are_those_of_one_process(runs, case, kind):
    """The moments after one update are its gradient; rows are unlike, then all on one rank."""
    (first, second), alone, folder = runs
    key, expected = f"{case} {kind}", alone[f"{case} replicated"]
    assert first[key]["figures"] == second[key]["figures"]
    for mine, one in zip(first[key]["figures"], expected["figures"], strict=True):
        assert mine == pytest.approx(one, rel=1e-5)
    sharded = state_of(folder / "state" / key)
    plain = state_of(folder / "alone" / f"{case} replicated")
    assert sharded.keys() == plain.keys()
    for name, tensor in plain.items():
        kind_of = name.partition("/")[0]
        largest = max(float(t.abs().max()) for n, t in plain.items() if n.startswith(kind_of))
        assert_like(sharded[name], tensor, largest, name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_whole_weights_are_the_same_on_every_rank_and_in_one_process(runs, case, kind):
    (first, second), alone, _ = runs
    key = f"{case} {kind}"
    plain = alone[f"{case} replicated"]["weights"]
    assert first[key]["weights"].keys() == plain.keys()
    for name, tensor in first[key]["weights"].items():
        assert torch.equal(tensor, second[key]["weights"][name]), name
        assert_like(tensor, plain[name], 1.0, name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", RESUMED)
def test_a_resumed_run_ends_with_the_same_bytes(runs, case, kind):
    for rank in runs[0]:
        straight = rank[f"{case} {kind}"]["weights"]
        for name, tensor in rank[f"{case} {kind}"][kind].items():
            assert torch.equal(tensor, straight[name]), name


@pytest.mark.parametrize("other", KINDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", RESUMED)
def test_a_state_is_taken_up_by_every_kind(runs, case, kind, other):
    (first, _), _, folder = runs
    straight = first[f"{case} {kind}"]["weights"]
    for name, tensor in first[f"{case} {kind}"][other].items():
        assert_like(tensor, straight[name], 1.0, name)
    alone = sharded_ranks.resumed(case, "replicated", folder / "state" / f"{case} {kind}")
    for name, tensor in alone.items():
        assert_like(tensor, straight[name], 1.0, name)


def test_a_rank_holds_its_slices(runs):
    """Ranks write what they were given, and no tensor twice."""
    _, _, folder = runs
    for kind in set(KINDS) - {"replicated"}:
        parts = list((folder / "state" / f"sft llama {kind}").glob("engine-*.safetensors"))
        names = [list(load_file(path)) for path in parts]
        assert {path.name[:12] for path in parts} == {"engine-00000", "engine-00001"}
        assert len(set(names[0]) & set(names[1])) == 0
