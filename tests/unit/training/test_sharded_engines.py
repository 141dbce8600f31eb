"""Two real processes that hold slices of a model, against one that holds it whole."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.programs import node_ranks, sharded_ranks
from support.programs.sharded_ranks import RESUMED, TAKEN_UP, work
from support.tiny_models import run_ranks
from torch import nn

from rlhf.errors import ConfigError
from rlhf.models.layers import decoder_layers
from rlhf.runtime.options import EngineKind, EngineOptions
from rlhf.training.engine.open import open_engine
from rlhf.training.engine.protocol import Engine

NARROW = [run for run in sharded_ranks.runs() if run[0] in sharded_ranks.NARROW]
RUNS = [run for run in sharded_ranks.runs() if run not in NARROW]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What two ranks came to by every kind of engine, and one process; and their folder."""
    folder = tmp_path_factory.mktemp("sharded")
    with pytest.MonkeyPatch.context() as patch:
        # TORCH_DISTRIBUTED_DEBUG=DETAIL would name a collective in which ranks differ; it is slow.
        patch.setitem(os.environ, "TORCH_EXTENSIONS_DIR", str(folder / "compiled"))
        run_ranks(Path(sharded_ranks.__file__), folder, timeout=1200)
    ranks = [torch.load(folder / f"rank-{rank}.pt") for rank in range(2)]
    return ranks, work(folder, folder / "alone"), folder


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    files = list(folder.glob("engine-*.safetensors"))
    return {name: tensor for path in files for name, tensor in load_file(path).items()}


def assert_like(left: torch.Tensor, right: torch.Tensor, largest: float, name: str) -> None:
    """Within 1e-5 of the largest, whose rounding all the others share in their sums."""
    assert (left - right).abs().max() <= 1e-5 * max(largest, 1e-6), name


@pytest.mark.parametrize(("case", "kind"), RUNS)
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


@pytest.mark.parametrize(("case", "kind"), NARROW)
def test_narrow_products_come_to_what_they_do_in_one_process(runs, case, kind):
    (first, _), alone, _ = runs
    expected = alone[f"{case} replicated"]["figures"]
    assert first[f"{case} {kind}"]["figures"][0] == pytest.approx(expected[0], rel=2e-3)
    assert first[f"{case} {kind}"]["figures"][1] == pytest.approx(expected[1], rel=1e-2)
    assert expected[0] == pytest.approx(alone["sft llama replicated"]["figures"][0], rel=1e-2)
    assert expected[0][0] != alone["sft llama replicated"]["figures"][0][0]


@pytest.mark.parametrize("kind", TAKEN_UP)
def test_an_overflow_on_one_rank_is_left_out_on_all(runs, kind):
    """And what the loss scale has come to is in the state."""
    for rank in runs[0]:
        result = rank[f"float16 llama {kind}"]
        assert not math.isfinite(result["overflow"]["norm"])
        assert result["overflow"]["unchanged"]
        assert result["overflow"]["scale"]["factor"] == sharded_ranks.FACTOR / 2
        assert result["overflow"]["scale"]["skipped"] == 1
        assert result["restored"] == result["overflow"]["scale"]


def test_rows_in_one_sequence_come_to_what_padded_ones_do(runs):
    alone = runs[1]
    for packed, padded in zip(
        alone["packed llama replicated"]["figures"], alone["reward llama replicated"]["figures"],
        strict=True,
    ):  # fmt: skip
        assert packed == pytest.approx(padded, rel=1e-5)


@pytest.mark.parametrize(("case", "kind"), RUNS)
def test_whole_weights_are_the_same_on_every_rank_and_in_one_process(runs, case, kind):
    (first, second), alone, _ = runs
    key = f"{case} {kind}"
    plain = alone[f"{case} replicated"]["weights"]
    assert first[key]["weights"].keys() == plain.keys()
    for name, tensor in first[key]["weights"].items():
        assert torch.equal(tensor, second[key]["weights"][name]), name
        assert_like(tensor, plain[name], 1.0, name)


@pytest.mark.parametrize("kind", TAKEN_UP)
@pytest.mark.parametrize("case", RESUMED)
def test_a_resumed_run_ends_with_the_same_bytes(runs, case, kind):
    for rank in runs[0]:
        straight = rank[f"{case} {kind}"]["weights"]
        for name, tensor in rank[f"{case} {kind}"][kind].items():
            assert torch.equal(tensor, straight[name]), name


@pytest.mark.parametrize("kind", TAKEN_UP)
@pytest.mark.parametrize("case", RESUMED)
def test_a_state_is_taken_up_by_other_kinds(runs, case, kind):
    (first, _), _, folder = runs
    straight = first[f"{case} {kind}"]["weights"]
    for other in TAKEN_UP[kind]:
        for name, tensor in first[f"{case} {kind}"][other].items():
            assert_like(tensor, straight[name], 1.0, name)
    alone = sharded_ranks.resumed(case, "replicated", folder / "state" / f"{case} {kind}")
    for name, tensor in alone.items():
        assert_like(tensor, straight[name], 1.0, name)


@pytest.mark.parametrize("kind", TAKEN_UP)
def test_a_rank_holds_its_slices(runs, kind):
    """Ranks write what they were given, and no tensor twice."""
    ranks, alone, folder = runs
    held = [rank[f"reward llama {kind}"]["held"] for rank in ranks]
    whole = alone["reward llama replicated"]["held"]
    if kind in ("fsdp", "zero3"):
        assert sum(held) == whole
        assert max(held) < 0.6 * whole
    else:
        assert held == [whole, whole]
    if kind != "replicated":
        parts = list((folder / "state" / f"reward llama {kind}").glob("engine-*.safetensors"))
        names = [list(load_file(path)) for path in parts]
        assert {path.name[:12] for path in parts} == {"engine-00000", "engine-00001"}
        assert len(set(names[0]) & set(names[1])) == 0


@pytest.mark.parametrize("kind", ["replicated", "fsdp", "zero3"])
def test_a_model_that_all_ranks_save_is_written_once(runs, kind):
    (first, _), _, folder = runs
    key = f"sft gpt_neox {kind}"
    saved = load_file(folder / "state" / key / "model" / "model.safetensors")
    for name, tensor in first[key]["weights"].items():
        assert torch.equal(saved[name.removeprefix("model.")], tensor), name


@pytest.mark.parametrize("kind", TAKEN_UP)
def test_a_norm_that_is_not_finite_updates_nothing(runs, kind):
    for rank in runs[0]:
        norm, unchanged = rank[f"reward llama {kind}"]["spoilt"]
        assert not math.isfinite(norm)
        assert unchanged


@pytest.mark.parametrize("kind", TAKEN_UP)
def test_a_model_that_is_not_trained_is_kept_alike(runs, kind):
    ranks, alone, _ = runs
    expected = alone["reward llama replicated"]["reference"]
    for rank in ranks:
        torch.testing.assert_close(rank[f"reward llama {kind}"]["reference"], expected)


@pytest.mark.parametrize("kind", sharded_ranks.KINDS)
def test_frozen_matrices_are_held_in_the_type_of_the_products(runs, kind):
    """As on a GPU. Nothing is learned otherwise, and norms and embeddings stay as they are."""
    (first, _), alone, _ = runs
    result, plain = first["held"][kind], alone["held"]["replicated"]
    assert result["figures"] == pytest.approx(plain["figures"], rel=1e-2)
    frozen = "model.gpt_neox.layers.0."
    for name, dtype in result["types"].items():
        matrix = name.startswith(frozen) and "norm" not in name
        assert dtype == (torch.bfloat16 if matrix else torch.float32), name
        if name.startswith((frozen, "model.gpt_neox.embed_in")):
            assert torch.equal(result["weights"][name], plain["weights"][name]), name


def test_frozen_matrices_change_nothing_where_they_are_held_narrow(runs):
    """To the last bit: products take them in that type anyhow."""
    root, loss = sharded_ranks.sft("gpt_neox")
    root.freeze(1)
    root.compute_in("bfloat16")
    engine = open_engine(root, {"": 1e-2}, sharded_ranks.SETTINGS, EngineOptions())
    result = runs[1]["held"]["replicated"]
    assert {tensor.dtype for _, tensor in engine.weights()} == {torch.float32}
    assert sharded_ranks.update(engine, loss, 0) == result["figures"]
    for name, tensor in engine.weights():
        narrow = result["types"][name]
        assert torch.equal(result["weights"][name], tensor.to(narrow)), name


def test_offloading_changes_no_result(runs):
    (first, _), alone, _ = runs
    for name, offloaded in first["offloaded"].items():
        assert offloaded["optimizer"]
        assert offloaded["weights"] == name.endswith("all")
        for mine, one in zip(
            offloaded["figures"], alone["ppo llama replicated"]["figures"], strict=True
        ):
            assert mine == pytest.approx(one, rel=1e-5)


def test_nothing_is_compiled(runs):
    assert not (runs[2] / "compiled").exists()


def engine_of(kind: EngineKind, **options: str) -> Engine:
    root, _, rates = sharded_ranks.case("sft llama")
    return open_engine(root, rates, sharded_ranks.SETTINGS, EngineOptions(kind, **options))


def test_deepspeed_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)  # as Python notes what can't be imported
    with pytest.raises(ConfigError, match=r"not installed(.|\n)*pip install"):
        engine_of("zero2")


def test_options_that_a_stage_does_not_have_are_refused():
    with pytest.raises(ConfigError, match="every rank keeps whole weights"):
        engine_of("zero2", offload="all")
    with pytest.raises(ConfigError, match="cuts over all ranks"):
        engine_of("zero3", shard="node")


def with_experts(root: nn.Module) -> nn.Module:
    """More experts than layers, as own code may keep them."""
    for layer in root.model.model.layers:
        layer.mlp.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))
    return root


@pytest.mark.parametrize("kind", ["zero2", "zero3"])
def test_models_that_ranks_may_use_in_part_are_refused(kind):
    """Each rank would wait for gradients, or weights, that the others never ask for."""
    root, _, rates = sharded_ranks.case("sft llama")
    with pytest.raises(ConfigError, match=r"mlp\.experts(.|\n)*take the engine fsdp"):
        open_engine(with_experts(root), rates, sharded_ranks.SETTINGS, EngineOptions(kind))


def test_the_layers_are_found_beside_a_longer_list_inside_of_them():
    root, _, _ = sharded_ranks.case("sft llama")
    layers = root.model.model.layers
    assert decoder_layers(with_experts(root).model) is layers


@pytest.mark.parametrize("kind", ["fsdp", "zero3"])
def test_a_model_without_a_list_of_layers_is_refused(kind):
    root, _, rates = sharded_ranks.case("sft llama")
    root.model.model.layers = nn.Sequential(*root.model.model.layers)
    with pytest.raises(ConfigError, match=r"no list of modules(.|\n)*engine replicated"):
        open_engine(root, rates, sharded_ranks.SETTINGS, EngineOptions(kind))
    with pytest.raises(ConfigError, match="can't be frozen"):
        root.freeze(1)
    root.compute_in("bfloat16")  # whole replicas do without one
    engine_of("replicated").frozen(root)
    assert root.model.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16


def test_deepspeed_is_loaded_by_its_engines_alone(tmp_path):
    """Of what a stage does without them, nothing may: it takes a second in every process."""
    assert importlib.util.find_spec("deepspeed")
    code = """
import sys
from pathlib import Path
from support.programs.sharded_ranks import SETTINGS, case, update
from rlhf.models.load import load_token_scorer
from rlhf.models.publish import below, save_model
from rlhf.runtime.options import EngineOptions
from rlhf.stages import online, train_dpo, train_reward, train_sft
from rlhf.training.engine.open import open_engine

class NoTokenizer:
    def save_pretrained(self, folder): pass

for kind in ("replicated", "fsdp"):
    root, loss, rates = case("sft llama")
    engine = open_engine(root, rates, SETTINGS, EngineOptions(kind))
    update(engine, loss, 0)
    save_model(root, below(engine.weights(), "model."), NoTokenizer(), Path(sys.argv[1]))
    load_token_scorer(sys.argv[1])
assert not [name for name in sys.modules if name.partition(".")[0] == "deepspeed"]
"""
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("kind", ["fsdp", "zero3"])
@pytest.mark.parametrize("architecture", sharded_ranks.ARCHITECTURES)
def test_bfloat16_is_that_of_one_process_but_for_rounding(runs, architecture, kind):
    (first, _), alone, _ = runs
    expected = alone["narrow"][f"replicated {architecture}"]
    assert first["narrow"][f"{kind} {architecture}"] == pytest.approx(expected, rel=2e-2)


@pytest.mark.slow
def test_slices_may_be_spread_within_a_node_alone(tmp_path):
    """Two nodes of two ranks: each node has all slices, and gradients are summed over both."""
    run_ranks(Path(node_ranks.__file__), tmp_path, ranks=4)
    ranks = [torch.load(tmp_path / f"rank-{rank}.pt") for rank in range(4)]
    alone = node_ranks.work(tmp_path, tmp_path / "alone")
    for rank in ranks:
        assert rank["figures"] == ranks[0]["figures"]
        for name, tensor in rank["weights"].items():
            assert_like(tensor, alone["weights"][name], 1.0, name)
    for mine, plain in zip(ranks[0]["figures"], alone["figures"], strict=True):
        assert mine == pytest.approx(plain, rel=1e-5)
    held = [rank["held"] for rank in ranks]
    assert held[:2] == held[2:]
    assert sum(held[:2]) == alone["held"]
