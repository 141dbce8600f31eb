from __future__ import annotations

import pytest
import torch

from rlhf.config.online import KlConfig
from rlhf.online.kl import KlController, approximate_kl, kl_estimate


@pytest.fixture(scope="module")
def toy():
    """Two categorical distributions in float64: log p, log q of each of 8 outcomes."""
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    return (draw * torch.tensor([[1.0], [2.0]])).log_softmax(-1)


def test_k1_and_k3_are_unbiased_and_k3_is_never_negative(toy):
    """Checklist 23"""
    p, q = toy
    exact = float((p.exp() * (p - q)).sum())
    expected = {e: float((p.exp() * kl_estimate(p, q, e)).sum()) for e in ("k1", "k2", "k3")}
    assert expected["k1"] == pytest.approx(exact, rel=1e-12)
    assert expected["k3"] == pytest.approx(exact, rel=1e-12)
    assert expected["k2"] != pytest.approx(exact, rel=1e-2)
    assert (kl_estimate(p, q, "k3") >= 0).all()
    assert (kl_estimate(p, q, "k1") < 0).any()
    d = torch.linspace(-3, 3, 101)
    assert (kl_estimate(d, torch.zeros(101), "k3") >= 0).all()


def test_gradients_of_the_estimators_in_the_loss(toy):
    """Checklist 23

    Over tokens of the policy: none of k1, that of KL(π ‖ ref) of k2, of KL(ref ‖ π) of k3.
    """
    logits, q = toy[0].clone().requires_grad_(), toy[1]

    def gradient(value):
        return torch.autograd.grad(value, logits)[0]

    p = logits.log_softmax(-1)
    found = {
        name: gradient((p.exp().detach() * kl_estimate(p, q, name)).sum())
        for name in ("k1", "k2", "k3")
        for p in [logits.log_softmax(-1)]
    }
    p = logits.log_softmax(-1)
    expected = {
        "k1": torch.zeros_like(q),
        "k2": gradient((p.exp() * (p - q)).sum()),
        "k3": gradient((q.exp() * (q - logits.log_softmax(-1))).sum()),
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-12, rtol=1e-9, msg=name)


def test_sampled_estimates_come_close(toy):
    """Checklist 23"""
    p, q = toy
    exact = float((p.exp() * (p - q)).sum())
    sampled = torch.multinomial(p.exp(), 200_000, True, generator=torch.Generator().manual_seed(1))
    found = {e: kl_estimate(p[sampled], q[sampled], e) for e in ("k1", "k3")}
    for values in found.values():
        error = float(values.std()) / 200_000**0.5
        assert abs(float(values.mean()) - exact) < 4 * error
    reverse = float((q.exp() * (q - p)).sum())
    assert abs(float(found["k3"].mean()) - reverse) > 0.05 * exact, "the direction shows"


def test_estimators_by_hand():
    """Checklist 23"""
    policy, reference = torch.tensor([-1.0]), torch.tensor([-1.5])
    assert float(kl_estimate(policy, reference)) == pytest.approx(0.5)
    assert float(kl_estimate(policy, reference, "k2")) == pytest.approx(0.125)
    assert float(kl_estimate(policy, reference, "k3")) == pytest.approx(0.1065307, rel=1e-5)


def test_approximate_kl_is_that_of_old_and_new(toy):
    """Checklist 37"""
    old, new = toy
    exact = float((old.exp() * (old - new)).sum())
    assert float((old.exp() * approximate_kl(new, old)).sum()) == pytest.approx(exact, rel=1e-12)
    assert (approximate_kl(new, old) >= 0).all()


def test_the_adaptive_controller_replays():
    """Checklist 24"""
    controller = KlController(
        KlConfig(coefficient=0.2, controller="adaptive", target=6.0, horizon=10_000)
    )
    expected = 0.2
    # KL of each update, and its clipped error by hand
    for kl, error in [(6.0, 0.0), (6.6, 0.1), (30.0, 0.2), (0.0, -0.2), (5.4, -0.1), (-3.0, -0.2)]:
        controller.update(kl, episodes=64)
        expected *= 1 + error * 64 / 10_000
        assert controller.coefficient == pytest.approx(expected, rel=1e-12)


def test_the_fixed_controller_stays():
    """Checklist 24"""
    controller = KlController(
        KlConfig(coefficient=0.2, controller="fixed", target=6.0, horizon=100)
    )
    controller.update(100.0, 64)
    assert controller.coefficient == 0.2
