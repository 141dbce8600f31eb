"""The clipped objectives of PPO, as sums over tokens."""

from __future__ import annotations

import torch


def policy_loss(
    logprobs: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, clip: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The pessimistic maximum of the negated objectives (Schulman et al. 2017, equation 7).

    Args:
        logprobs: [N] log π of the tokens.
        old: [N] log π when they were sampled.
        advantages: [N].
        clip: range of the ratio around 1.

    Returns:
        Per-token loss [N], and whether clipping decided it [N] (bool).
    """
    ratio = (logprobs - old).exp()
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(plain, clipped), clipped > plain


def value_loss(
    values: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, clip: float
) -> torch.Tensor:
    """Half the larger of the plain and the clipped squared error, per token [N].

    Args:
        values: [N] new values.
        old: [N] values when the tokens were sampled.
        returns: [N] targets.
        clip: range around the old values.
    """
    near = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)


def approximate_kl(logprobs: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """k3 estimate of KL(old ‖ new) per token [N], for watching how far an update goes."""
    d = logprobs - old
    return torch.expm1(d) - d
