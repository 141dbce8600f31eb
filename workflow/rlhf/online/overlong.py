"""What responses pay for their length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from rlhf.config.online import OnlineConfig


def overlong_penalties(lengths: torch.Tensor, config: OnlineConfig) -> torch.Tensor:
    """The soft punishment of long responses [n], from 0 up to ``overlong.penalty``.

    It grows over the last ``overlong.buffer`` tokens that a response may have: equation 13 of DAPO
    (Yu et al. 2025, arXiv 2503.14476).

    Args:
        lengths: [n], tokens of each response with its EOS.
        config: the run's configuration.
    """
    buffer, longest = config.overlong.buffer, config.sampling.max_new_tokens
    if not buffer:
        return torch.zeros(len(lengths))
    beyond = (lengths - (longest - buffer)).clamp(min=0)  # [n], at most the buffer
    return config.overlong.penalty * beyond / buffer
