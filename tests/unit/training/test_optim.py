from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from rlhf.config.training import OptimizerConfig
from rlhf.training import optim
from rlhf.training.optim import learning_rate_factor


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


def configuration(**changes):
    return OptimizerConfig(**changes).model_dump()


def test_matrices_decay_vectors_do_not_frozen_stay():
    model, other = nn.Linear(3, 2), nn.Linear(2, 1)
    other.weight.requires_grad_(False)
    optimizer = optim.build_optimizer(
        [(list(model.parameters()), 1e-3), (list(other.parameters()), 1e-2)],
        configuration(weight_decay=0.3),
    )
    found = [(g["params"], g["weight_decay"], g["peak"]) for g in optimizer.param_groups]
    assert [(len(p), p[0].ndim, d, peak) for p, d, peak in found] == [
        (1, 2, 0.3, 1e-3), (1, 1, 0.0, 1e-3), (1, 1, 0.0, 1e-2)
    ]  # fmt: skip
    assert optim.set_learning_rate(optimizer, 0.5) == 5e-4
    assert [group["lr"] for group in optimizer.param_groups] == [5e-4, 5e-4, 5e-3]


def test_first_update_is_adams():
    """Checklist 35"""
    parameter = nn.Parameter(torch.zeros(4))
    settings = configuration(eps=1e-2, beta1=0.8, beta2=0.9)
    optimizer = optim.build_optimizer([([parameter], 0.1)], settings)
    gradient = torch.tensor([0.3, -0.02, 0.0, 1e-4])
    parameter.grad = gradient.clone()
    assert optim.step(optimizer, max_norm=10) == pytest.approx(float(gradient.norm()))
    torch.testing.assert_close(parameter.detach(), -0.1 * gradient / (gradient.abs() + 1e-2))
    assert parameter.grad is None


def test_gradients_are_clipped_to_the_global_norm():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1, 1))
    optimizer = torch.optim.SGD([a, b], lr=1.0)
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([[4.0]])
    assert optim.step(optimizer, max_norm=1.0) == pytest.approx(5.0)
    assert float(a) == pytest.approx(-0.6, abs=1e-5)
    assert float(b) == pytest.approx(-0.8, abs=1e-5)


def test_an_optimizer_goes_on_from_its_state():
    """Checklist 40"""

    def fresh():
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        return model, optim.build_optimizer([(list(model.parameters()), 0.1)], configuration())

    def work(model, optimizer, step):
        generator = torch.Generator().manual_seed(step)
        model(torch.randn(2, 4, generator=generator)).square().sum().backward()
        optim.set_learning_rate(optimizer, 1 - step / 10)
        optim.step(optimizer, 1.0)

    straight, optimizer = fresh()
    for step in range(3):
        work(straight, optimizer, step)
    weights = copy.deepcopy(straight.state_dict())
    moments = copy.deepcopy(optim.optimizer_state(optimizer))
    work(straight, optimizer, 3)
    resumed, optimizer = fresh()
    resumed.load_state_dict(weights)
    optim.load_optimizer_state(optimizer, moments)
    work(resumed, optimizer, 3)
    assert torch.equal(straight.weight, resumed.weight)
    assert torch.equal(straight.bias, resumed.bias)
