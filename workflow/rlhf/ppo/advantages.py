"""Generalized advantage estimation and whitening over responses of different lengths."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rlhf.training import distributed


def gae(
    rewards: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    gamma: float,
    lam: float,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Advantages and returns of each response; the value after its last token is 0.

    Schulman et al. 2016 (arXiv 1506.02438), equation 16.

    Args:
        rewards: per response [L_i].
        values: per response [L_i], of the state before each token.
        gamma: discount.
        lam: λ.

    Returns:
        Advantages and returns (advantage + value), per response [L_i].
    """
    lengths = [len(reward) for reward in rewards]
    pad = torch.nn.utils.rnn.pad_sequence
    r, v = pad(list(rewards), batch_first=True), pad(list(values), batch_first=True)
    after = torch.cat([v[:, 1:], v.new_zeros(len(v), 1)], dim=1)
    delta = r + gamma * after - v
    # Padding holds zeros on the right, so running backwards it adds nothing to a response's end.
    advantages = torch.zeros_like(delta)
    running = delta.new_zeros(len(delta))
    for t in reversed(range(delta.shape[1])):
        running = delta[:, t] + gamma * lam * running
        advantages[:, t] = running
    parts = [advantages[i, :n] for i, n in enumerate(lengths)]
    return parts, [part + value for part, value in zip(parts, values, strict=True)]


def whiten(parts: Sequence[torch.Tensor], shift_mean: bool = True) -> list[torch.Tensor]:
    """Scale to unit (biased) variance over all tokens of all ranks, in float64.

    Args:
        parts: per response [L_i].
        shift_mean: also shift to mean 0; rewards are whitened without.
    """
    flat = torch.cat(list(parts)).double()
    count, total = distributed.total([flat.numel(), float(flat.sum())])
    mean = total / count
    (squares,) = distributed.total([float(((flat - mean) ** 2).sum())])
    white = (flat - mean) * (squares / count + 1e-8) ** -0.5
    if not shift_mean:
        white += mean
    return list(white.to(parts[0].dtype).split([len(part) for part in parts]))
