from __future__ import annotations

import math

import pytest
from torch import nn

from rlhf.config.training import OptimizerConfig
from rlhf.training.optim import build_optimizer, learning_rate_factor


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
