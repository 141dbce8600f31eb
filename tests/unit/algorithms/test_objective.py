from __future__ import annotations

import math

import pytest
import torch

from rlhf.algorithms.policy import policy_loss
from rlhf.algorithms.ppo import value_loss

# ratio, advantage, loss, clipped, gradient of the loss in log π — with a clip range of 0.2
POLICY_CASES = [
    (1.0, 2.0, -2.0, False, -2.0),
    (1.1, 2.0, -2.2, False, -2.2),
    (1.5, 2.0, -2.4, True, 0.0),  # good and already likelier: no more
    (0.5, 2.0, -1.0, False, -1.0),  # good but less likely: pull it back
    (0.5, -2.0, 1.6, True, 0.0),  # bad and already rarer: no more
    (1.5, -2.0, 3.0, False, 3.0),  # bad but likelier: the full loss
    (0.9, -2.0, 1.8, False, 1.8),
    (3.0, 0.0, 0.0, False, 0.0),
]


@pytest.mark.parametrize(("ratio", "advantage", "loss", "clipped", "slope"), POLICY_CASES)
def test_policy_loss_by_hand(ratio, advantage, loss, clipped, slope):
    """Checklist 30"""
    old = torch.tensor([-1.3])
    new = (old + math.log(ratio)).requires_grad_()
    found, cut = policy_loss(new - old, torch.tensor([advantage]), 0.2)
    assert float(found.detach()) == pytest.approx(loss, abs=1e-5)
    assert bool(cut) == clipped
    found.sum().backward()
    assert float(new.grad) == pytest.approx(slope, abs=1e-5)


def test_nothing_is_clipped_where_nothing_changed():
    """Checklist 30"""
    logprobs, advantages = torch.randn(50), torch.randn(50)
    loss, clipped = policy_loss(logprobs - logprobs.clone(), advantages, 0.2)
    assert not clipped.any()
    assert torch.equal(loss, -advantages)


# new value, return, loss, gradient in the new value — the old value is 1, the clip range 0.2
VALUE_CASES = [
    (1.1, 2.0, 0.5 * 0.81, -0.9),
    (1.5, 2.0, 0.5 * 0.64, 0.0),  # moved towards the return beyond the range: stopped
    (0.5, 2.0, 0.5 * 2.25, -1.5),  # moved away: the full error
    (1.5, 0.0, 0.5 * 2.25, 1.5),
    (0.5, 0.0, 0.5 * 0.64, 0.0),
]


@pytest.mark.parametrize(("value", "target", "loss", "slope"), VALUE_CASES)
def test_value_loss_by_hand(value, target, loss, slope):
    """Checklist 29"""
    new = torch.tensor([value], requires_grad=True)
    found = value_loss(new, torch.tensor([1.0]), torch.tensor([target]), 0.2)
    assert float(found.detach()) == pytest.approx(loss, abs=1e-6)
    found.sum().backward()
    assert float(new.grad) == pytest.approx(slope, abs=1e-6)


def test_a_value_that_is_not_clipped():
    new = torch.tensor([1.5, -3.0], requires_grad=True)
    found = value_loss(new, torch.tensor([1.0, 1.0]), torch.tensor([2.0, 2.0]), None)
    assert found.tolist() == [0.125, 12.5]
    found.sum().backward()
    assert new.grad.tolist() == [-0.5, -5.0]
