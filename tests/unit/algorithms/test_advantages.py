from __future__ import annotations

import pytest
import torch

from rlhf.algorithms.advantages import whiten
from rlhf.algorithms.ppo import gae


def responses(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, generator=generator) for n in lengths]


def slow_gae(rewards, values, gamma, lam):
    """Every δ weighted by (γλ)^l, nothing after the last token: O(n²), one response."""
    n = len(rewards)
    after = [float(v) for v in values[1:]] + [0.0]
    delta = [float(rewards[t]) + gamma * after[t] - float(values[t]) for t in range(n)]
    return torch.tensor(
        [sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, n)) for t in range(n)]
    )


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.7, 0.0)])
def test_gae_equals_the_quadratic_sum(gamma, lam):
    """Checklist 25"""
    lengths = [1, 2, 17, 5]
    rewards, values = responses(lengths, 1), responses(lengths, 2)
    advantages, returns = gae(rewards, values, gamma, lam)
    for reward, value, advantage, target in zip(rewards, values, advantages, returns, strict=True):
        torch.testing.assert_close(
            advantage, slow_gae(reward, value, gamma, lam), atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(target, advantage + value)


def test_gae_does_not_depend_on_padding():
    """Checklist 25"""
    rewards, values = responses([4, 30], 3), responses([4, 30], 4)
    together, _ = gae(rewards, values, 1.0, 0.95)
    alone, _ = gae(rewards[:1], values[:1], 1.0, 0.95)
    assert torch.equal(together[0], alone[0])


def test_with_lambda_1_returns_are_the_rewards_to_come():
    """Checklist 25"""
    rewards = [torch.tensor([0.0, -0.5, 2.0])]
    _, returns = gae(rewards, responses([3]), 1.0, 1.0)
    torch.testing.assert_close(returns[0], torch.tensor([1.5, 1.5, 2.0]))


def test_whitening_uses_the_biased_variance_over_all_tokens():
    """Checklist 26"""
    parts = [torch.tensor([1.0, 3.0]), torch.tensor([8.0])]
    white = torch.cat(whiten(parts))
    flat = torch.tensor([1.0, 3.0, 8.0])
    torch.testing.assert_close(white, (flat - 4) / (26 / 3) ** 0.5)
    assert float(white.std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert abs(float(white.mean())) < 1e-6
    assert [len(part) for part in whiten(parts)] == [2, 1]


def test_whitening_without_shift_keeps_the_mean():
    """Checklist 26"""
    parts = responses([5, 9, 2], 5)
    parts = [3 * part + 7 for part in parts]
    flat = torch.cat(parts)
    kept, shifted = torch.cat(whiten(parts, shift_mean=False)), torch.cat(whiten(parts))
    torch.testing.assert_close(kept.mean(), flat.mean(), atol=1e-5, rtol=0)
    assert float(kept.std(correction=0)) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(kept - flat.mean(), shifted, atol=1e-5, rtol=0)


def test_whitening_equal_values_stays_finite():
    assert torch.cat(whiten([torch.full((3,), 0.25)])).tolist() == [0, 0, 0]
