"""Value functions: a head on the policy, or a separate critic that starts as the reward model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from rlhf.models.forward import states_between
from rlhf.models.reward import score_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ValueHead(nn.Module):
    """One linear layer on the policy's last hidden state; zero at first, so values start at 0."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(
        self,
        before: torch.Tensor,
        sequences: Sequence[torch.Tensor],
        starts: Sequence[int],
    ) -> torch.Tensor:
        """Values [N] of the states before each response token, from the policy's hidden states.

        Args:
            before: [N, H], hidden states before each response token.
            sequences: unused here; a critic reads them.
            starts: unused here.
        """
        return self.linear(before).squeeze(-1)


class Critic(nn.Module):
    """A separate model: the reward model's calibrated score of every prefix.

    Its first value at a sequence's last token is the calibrated reward of that sequence.

    Args:
        reward_model: the model that it starts from (it is trained in place).
        mean: mean of the raw scores.
        std: their standard deviation.
    """

    def __init__(self, reward_model: PreTrainedModel, mean: float, std: float) -> None:
        super().__init__()
        self.model, self.mean, self.std = reward_model, mean, std

    def forward(
        self,
        before: torch.Tensor,
        sequences: Sequence[torch.Tensor],
        starts: Sequence[int],
    ) -> torch.Tensor:
        """Values [N] of the states before each response token; ``before`` is unused here."""
        first, last = [s - 1 for s in starts], [len(x) - 1 for x in sequences]
        chosen = states_between(self.model, sequences, first, first, last)
        return (score_head(self.model)(chosen).squeeze(-1) - self.mean) / self.std
