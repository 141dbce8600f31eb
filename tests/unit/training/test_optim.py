from __future__ import annotations

import math
import sys

import pytest
import torch
from support.tiny_models import token_scorer, token_sequences
from torch import nn

from rlhf.config.training import OptimizerConfig
from rlhf.errors import ConfigError
from rlhf.runtime.options import EngineOptions
from rlhf.training.engine.open import open_engine
from rlhf.training.engine.replicated import Replicated
from rlhf.training.optim import build_optimizer, check_optimizer, learning_rate_factor


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.25])
def test_schedules_rise_to_1_and_fall_to_0(schedule, warmup):
    """Checklist 13, 35"""
    steps = 40
    warm = math.ceil(warmup * steps)
    factors = [learning_rate_factor(step, steps, schedule, warmup) for step in range(steps + 1)]
    assert factors[warm] == 1 == max(factors)
    assert factors[steps] == pytest.approx(0, abs=1e-12)
    assert 0 < factors[steps - 1] < 0.05
    assert factors[: warm + 1] == sorted(set(factors[: warm + 1]))
    assert factors[warm:] == sorted(set(factors[warm:]), reverse=True)
    assert factors[0] == (1 / (warm + 1))


def test_schedules_by_hand():
    assert learning_rate_factor(0, 10, "linear", 0.2) == pytest.approx(1 / 3)
    assert learning_rate_factor(1, 10, "linear", 0.2) == pytest.approx(2 / 3)
    assert learning_rate_factor(6, 10, "linear", 0.2) == pytest.approx(0.5)
    assert learning_rate_factor(6, 10, "cosine", 0.2) == pytest.approx(0.5)
    assert learning_rate_factor(4, 10, "cosine", 0.2) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert [learning_rate_factor(s, 4, "constant", 0.25) for s in range(5)] == [0.5, 1, 1, 1, 1]


def test_matrices_decay_vectors_do_not_frozen_stay():
    model, other = nn.Linear(3, 2), nn.Linear(2, 1)
    other.weight.requires_grad_(False)
    optimizer = build_optimizer(
        [(list(model.parameters()), 1e-3), (list(other.parameters()), 1e-2)],
        OptimizerConfig(weight_decay=0.3),
    )
    found = [(g["params"], g["weight_decay"], g["peak"]) for g in optimizer.param_groups]
    assert [(len(p), p[0].ndim, d, peak) for p, d, peak in found] == [
        (1, 2, 0.3, 1e-3), (1, 1, 0.0, 1e-3), (1, 1, 0.0, 1e-2)
    ]  # fmt: skip


CPU, GPU = torch.device("cpu"), torch.device("cuda")
NARROW = OptimizerConfig(kind="adamw_8bit", learning_rate=1e-2, eps=1e-3, weight_decay=0.1)


@pytest.mark.parametrize(("device", "engine", "message"), [
    (CPU, "replicated", "needs a GPU"),
    (GPU, "fsdp", "The engine fsdp can't keep moments of 8 bits"),
    (GPU, "zero3", "The engine zero3 can't keep moments of 8 bits"),
    (GPU, "replicated", "bitsandbytes', which is not installed"),
])  # fmt: skip
def test_moments_of_8_bits_are_refused_where_they_can_not_be(monkeypatch, device, engine, message):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as Python notes what is not there
    with pytest.raises(ConfigError, match=message) as refused:
        check_optimizer(NARROW, device, engine)
    assert refused.value.where == "optimizer.kind"
    check_optimizer(OptimizerConfig(), device, engine)


def test_a_run_on_a_cpu_is_refused_before_it_trains():
    with pytest.raises(ConfigError, match="needs a GPU"):
        open_engine(token_scorer(0), {"": 1e-2}, NARROW, EngineOptions())


def learned(engine: Replicated, root: nn.Module, step: int) -> list[torch.Tensor]:
    """Weights after one more update."""
    rows = token_sequences([9, 12], seed=step)
    logprobs, _ = engine(rows, [torch.arange(1, len(row)) for row in rows])
    engine.backward(-logprobs.mean(), last=True)
    engine.step(1.0)
    return [parameter.detach().clone() for parameter in root.parameters()]


def test_moments_of_8_bits_are_near_those_of_32_and_are_resumed(tmp_path):
    """By bitsandbytes' kernels of CPUs, which runs are not given; `gpu/` has those of GPUs."""
    sizes = {"hidden_size": 64, "intermediate_size": 128}  # matrices of 4,096 numbers and more
    wide = token_scorer(0, **sizes)
    start = [parameter.detach().clone() for parameter in wide.parameters()]
    plain = Replicated(wide, {"": 1e-2}, NARROW.model_copy(update={"kind": "adamw"}))
    root = token_scorer(0, **sizes)
    engine = Replicated(root, {"": 1e-2}, NARROW)
    for step in range(3):
        expected, weights = learned(plain, wide, step), learned(engine, root, step)
        if step == 0:
            engine.save(tmp_path)
    error = sum(float((a - b).square().sum()) for a, b in zip(weights, expected, strict=True))
    moved = sum(float((a - b).square().sum()) for a, b in zip(expected, start, strict=True))
    assert 0 < error < 0.01 * moved
    states = engine._optimizer.state
    embeddings, matrix = root.model.model.embed_tokens.weight, root.model.lm_head.weight
    assert states[embeddings]["state1"].dtype == torch.float32
    assert states[matrix]["state1"].dtype == torch.uint8
    assert states[root.model.model.norm.weight]["state1"].dtype == torch.float32

    again = token_scorer(1, **sizes)
    taken_up = Replicated(again, {"": 1e-2}, NARROW)
    taken_up.load(tmp_path)
    for step in (1, 2):
        resumed = learned(taken_up, again, step)
    for left, right in zip(resumed, weights, strict=True):
        assert torch.equal(left, right)
