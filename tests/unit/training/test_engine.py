"""The engine: updates, states of several ranks, whole weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.programs import engine_ranks
from support.tiny_models import causal_lm, reply_scorer, run_ranks, token_scorer
from torch import nn

from rlhf.config.training import OptimizerConfig
from rlhf.errors import IntegrityError
from rlhf.models.publish import below, save_model
from rlhf.models.roots import TokenScorer
from rlhf.training import distributed
from rlhf.training.checkpoints import SEAL, Checkpoints
from rlhf.training.engine import state
from rlhf.training.engine.replicated import Replicated


class Weights(nn.Module):
    """Parameters whose gradients a test chooses: the loss is their product with them."""

    def __init__(self, *values: torch.Tensor) -> None:
        super().__init__()
        self.values = nn.ParameterList(values)

    def forward(self, *slopes: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple((p * s).sum() for p, s in zip(self.values, slopes, strict=True))


def engine_of(root: nn.Module, rate: float = 0.1, **config: float) -> Replicated:
    return Replicated(root, {"": rate}, OptimizerConfig(**config))


def learn(engine: Replicated, *slopes: torch.Tensor, factor: float = 1.0) -> float:
    engine.backward(sum(engine(*slopes)), last=True)
    return engine.step(factor)


def test_the_first_update_is_adams():
    """Checklist 35"""
    root = Weights(torch.zeros(4))
    slope = torch.tensor([0.3, -0.02, 0.0, 1e-4])
    norm = learn(engine_of(root, eps=1e-2, beta1=0.8, beta2=0.9, max_grad_norm=10), slope)
    assert norm == pytest.approx(float(slope.norm()))
    torch.testing.assert_close(root.values[0].detach(), -0.1 * slope / (slope.abs() + 1e-2))
    assert root.values[0].grad is None


def test_gradients_are_clipped_to_the_global_norm():
    root = Weights(torch.zeros(1), torch.zeros(1, 1))
    config = {"beta1": 0.0, "beta2": 0.0, "eps": 1.0, "max_grad_norm": 1.0}
    norm = learn(engine_of(root, 1.0, **config), torch.tensor([3.0]), torch.tensor([[4.0]]))
    assert norm == pytest.approx(5.0)
    # Adam without memory moves by g / (|g| + eps)
    assert root.values[0].item() == pytest.approx(-0.6 / 1.6, abs=1e-5)
    assert root.values[1].item() == pytest.approx(-0.8 / 1.8, abs=1e-5)


def test_a_norm_that_is_not_finite_updates_nothing():
    root = Weights(torch.ones(2))
    engine = engine_of(root)
    assert learn(engine, torch.tensor([1.0, float("inf")])) == float("inf")
    assert root.values[0].tolist() == [1, 1]
    assert root.values[0].grad is None


def test_rates_are_peaks_times_the_factor():
    root = Weights(torch.zeros(1), torch.zeros(1))
    engine = Replicated(root, {"values.0": 0.1, "values.1": 0.2}, OptimizerConfig(eps=1e-12))
    learn(engine, torch.ones(1), torch.ones(1), factor=0.5)
    assert [p.item() for p in root.values] == pytest.approx([-0.05, -0.1])


def test_a_frozen_model_gives_no_gradients():
    reference = token_scorer(1)
    frozen = engine_of(token_scorer(0)).frozen(reference)
    logprobs, _ = frozen([torch.arange(3, 9)], [torch.arange(1, 6)])
    assert not logprobs.requires_grad
    assert not any(p.requires_grad for p in reference.parameters())


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """The folder of two ranks that trained, saved and resumed."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(Path(engine_ranks.__file__), folder)
    return folder


def test_ranks_resume_to_the_same_bytes(two_ranks):
    """Checklist 40"""
    ranks = [torch.load(two_ranks / f"rank-{rank}.pt") for rank in range(2)]
    assert [one["rank"] for one in ranks] == [0, 1]
    assert ranks[0]["figures"] != ranks[1]["figures"], "each rank has random numbers of its own"
    for one in ranks:
        assert one["again"] == one["figures"]
        for name, weights in one["straight"].items():
            assert torch.equal(weights, one["resumed"][name]), name
            assert torch.equal(weights, ranks[0]["straight"][name]), name
    (folder,) = two_ranks.glob("state/*/step-*")
    seal = json.loads((folder / SEAL).read_text())
    assert seal.keys() == {path.name for path in folder.iterdir()} - {SEAL}
    assert {"rank-00000.json", "rank-00001.json", "rank-00001.safetensors"} < seal.keys()


def test_experts_that_some_ranks_did_not_use_are_alike_on_all(two_ranks):
    for rank in range(2):
        first, second, unused = torch.load(two_ranks / f"rank-{rank}.pt")["experts"]
        torch.testing.assert_close(first, torch.zeros(2))
        torch.testing.assert_close(second, torch.zeros(2))
        assert unused.tolist() == [1, 1]


def test_a_state_of_two_ranks_is_taken_up_by_one(two_ranks):
    root, engine = engine_ranks.make()
    step, values = Checkpoints(two_ranks / "state", {}).load(engine)
    assert (step, values["rank"], distributed.world_size()) == (2, 0, 1)
    (folder,) = two_ranks.glob("state/*/step-*")
    saved = {k: v for path in folder.glob("engine-*") for k, v in load_file(path).items()}
    for name, parameter in root.named_parameters():
        assert (f"weight/{name}" in saved) == parameter.requires_grad
        if parameter.requires_grad:
            assert torch.equal(parameter, saved[f"weight/{name}"])
            assert saved[f"exp_avg/{name}"].abs().sum() > 0


def test_states_are_cut_into_files(monkeypatch, tmp_path):
    parameters = [
        state.ParameterState.of(str(i), 4, torch.full((4,), float(i)), {}) for i in range(5)
    ]
    names = state.write_state(tmp_path, parameters, max_bytes=33)
    assert names == [state.INDEX, *(f"engine-00000-{i:05d}.safetensors" for i in range(3))]
    found = state.SavedState(tmp_path, {key: [4] for key in "01234"})
    assert [found.tensor("weight", str(i))[0] for i in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(IntegrityError, match="other parameters than the model: 4, 5"):
        state.SavedState(tmp_path, {key: [4] for key in "01235"})
    with pytest.raises(IntegrityError, match=r"than the model: 1 is \[4\], not \[1, 4\]"):
        state.SavedState(tmp_path, {key: [4] for key in "01234"} | {"1": [1, 4]})


class NoTokenizer:
    def save_pretrained(self, folder: Path) -> None:
        pass


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("make", [token_scorer, reply_scorer])
def test_published_weights_are_those_that_transformers_saves(tmp_path, make, tied):
    root = make(0, tie_word_embeddings=tied)
    weights = below(engine_of(root).weights(), "model.")
    save_model(root, weights, NoTokenizer(), tmp_path / "ours")
    root.model.save_pretrained(tmp_path / "theirs")
    ours, theirs = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("ours", "theirs")
    )
    assert ours == theirs


@pytest.mark.parametrize("tied", [True, False])
def test_large_models_are_published_in_several_files(tmp_path, tied):
    model = causal_lm(0, tie_word_embeddings=tied)
    weights = below(engine_of(TokenScorer(model)).weights(), "model.")
    save_model(TokenScorer(model), weights, NoTokenizer(), tmp_path, max_bytes=50_000)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(files) > 1
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    again = type(model).from_pretrained(tmp_path)
    for (name, left), (_, right) in zip(
        model.named_parameters(), again.named_parameters(), strict=True
    ):
        assert torch.equal(left, right), name
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    model.save_pretrained(tmp_path / "theirs", max_shard_size="50KB")
    theirs = json.loads((tmp_path / "theirs/model.safetensors.index.json").read_text())
    assert index["metadata"] == theirs["metadata"]
    assert index["weight_map"].keys() == theirs["weight_map"].keys()


def test_weights_may_be_given_narrower():
    root = token_scorer(0)
    found = dict(engine_of(root).weights(torch.bfloat16))
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in root.parameters())
