"""KL estimators and the controllers of the KL coefficient β."""

from __future__ import annotations

import torch


def kl_estimate(
    logprobs: torch.Tensor, reference: torch.Tensor, estimator: str = "k1"
) -> torch.Tensor:
    """Per-token estimate of KL(policy ‖ reference) on tokens sampled from the policy, in nats.

    k1 is unbiased and may be negative; k2 = ½d² is biased with low variance; k3 = e⁻ᵈ − 1 + d is
    unbiased and never negative, where d = log π − log π_ref (Schulman, Approximating
    KL divergence).

    Args:
        logprobs: log π of the sampled tokens.
        reference: log π_ref of the same tokens.
        estimator: ``k1``, ``k2`` or ``k3``.
    """
    d = logprobs - reference
    if estimator == "k1":
        return d
    return 0.5 * d**2 if estimator == "k2" else torch.expm1(-d) + d


class KlController:
    """β: fixed, or moved towards a target KL (Ziegler et al. 2019, section 2.2).

    Args:
        coefficient: initial β.
        adaptive: whether β moves.
        target: KL per response that is aimed at, in nats.
        horizon: episodes over which β moves.
    """

    def __init__(self, coefficient: float, adaptive: bool, target: float, horizon: int) -> None:
        self.coefficient = coefficient
        self._adaptive, self._target, self._horizon = adaptive, target, horizon

    def update(self, kl: float, episodes: int) -> None:
        """Move β after ``episodes`` responses with mean KL ``kl``; the error is clipped to ±0.2."""
        if self._adaptive:
            error = min(max(kl / self._target - 1, -0.2), 0.2)
            self.coefficient *= 1 + error * episodes / self._horizon
