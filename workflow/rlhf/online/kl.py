"""KL estimators and the controller of the KL coefficient β."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from rlhf.config.online import KlConfig


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


def approximate_kl(logprobs: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """k3 estimate of KL(old ‖ new) per token [N], for watching how far an update goes."""
    d = logprobs - old
    return torch.expm1(d) - d


class KlController:
    """β: fixed, or moved towards a target KL (Ziegler et al. 2019, section 2.2).

    Args:
        config: initial β, whether it moves, the KL per response that is aimed at, and the episodes
            over which it moves.
    """

    def __init__(self, config: KlConfig) -> None:
        self.coefficient, self._config = config.coefficient, config

    def update(self, kl: float, episodes: int) -> None:
        """Move β after ``episodes`` responses with mean KL ``kl``; the error is clipped to ±0.2."""
        if self._config.controller == "adaptive":
            error = min(max(kl / self._config.target - 1, -0.2), 0.2)
            self.coefficient *= 1 + error * episodes / self._config.horizon
