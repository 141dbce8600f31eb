"""Advantages without a value function, and what is done to advantages of any kind.

Shapes: n responses of a rank, those to one prompt together, k of them; L_i tokens of response i.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rlhf.online.algorithm import Credit
from rlhf.online.groups import differ
from rlhf.training import distributed

STD_FLOOR = 1e-6  # added to the standard deviation of a group


def whole(rewards: Sequence[torch.Tensor]) -> torch.Tensor:
    """The reward of each response [n]: the sum of its tokens' n × [L_i]."""
    return torch.stack([reward.sum() for reward in rewards])


def shared(advantages: torch.Tensor, rewards: Sequence[torch.Tensor]) -> Credit:
    """Credit in which all tokens of a response share its advantage [n]."""
    pairs = zip(advantages, rewards, strict=True)
    return without_values([advantage.expand(len(reward)) for advantage, reward in pairs])


def without_values(advantages: list[torch.Tensor]) -> Credit:
    """Credit of a method that has no value function."""
    return Credit(advantages, returns=[torch.empty(0)] * len(advantages))


def leave_one_out(rewards: torch.Tensor, k: int) -> torch.Tensor:
    """Each reward less the mean of the other responses to the same prompt.

    What a prompt is worth by itself is then no part of the advantage.

    Args:
        rewards: [n], those of one prompt together.
        k: responses to each prompt, at least 2.
    """
    groups = rewards.double().view(-1, k)  # [n / k, k]
    others = (groups.sum(1, keepdim=True) - groups) / (k - 1)  # [n / k, k]
    return (groups - others).flatten().to(rewards)


def group_relative(rewards: torch.Tensor, k: int, by_std: bool) -> torch.Tensor:
    """Each reward less the mean of its group, in the group's standard deviations or as it is.

    Shao et al. 2024 (arXiv 2402.03300), section 4.1.2; without the standard deviation Liu et al.
    2025 (arXiv 2503.20783), section 3.2. A group whose rewards differ by rounding alone has
    advantages of 0.

    Args:
        rewards: [n], those of one prompt together.
        k: responses to each prompt, at least 2.
        by_std: whether to divide by the standard deviation (that of a sample: over k − 1).
    """
    groups = rewards.double().view(-1, k)  # [n / k, k]
    centred = groups - groups.mean(1, keepdim=True)
    if by_std:
        centred = centred / (groups.std(1, keepdim=True) + STD_FLOOR)
    return centred.masked_fill(~differ(groups)[:, None], 0).flatten().to(rewards)


def rewards_to_go(rewards: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """For each token the sum of its reward and of those after it, n × [L_i]."""
    return [reward.flip(0).cumsum(0).flip(0) for reward in rewards]


def whiten(parts: Sequence[torch.Tensor], shift_mean: bool = True) -> list[torch.Tensor]:
    """Scale to unit (biased) variance over all tokens of all ranks, in float64.

    Args:
        parts: n × [L_i].
        shift_mean: also shift to mean 0; rewards are whitened without.
    """
    flat = torch.cat(list(parts)).double()  # [N]
    count, total = distributed.total([flat.numel(), float(flat.sum())])
    mean = total / count
    (squares,) = distributed.total([float(((flat - mean) ** 2).sum())])
    white = (flat - mean) * (squares / count + 1e-8) ** -0.5  # [N]
    if not shift_mean:
        white += mean
    return list(white.to(parts[0].dtype).split([len(part) for part in parts]))


def shift(parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Shift to mean 0 over all tokens of all ranks, in float64.

    Args:
        parts: n × [L_i].
    """
    flat = torch.cat(list(parts)).double()  # [N]
    count, total = distributed.total([flat.numel(), float(flat.sum())])
    return [(part.double() - total / count).to(part) for part in parts]
