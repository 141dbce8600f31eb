"""Policy and value function together: what PPO trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from rlhf.models.forward import continuation_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Evaluation:
    """What the actor says of some responses, all tokens joined.

    Attributes:
        logprobs: [N] log π of the response tokens at the sampling temperature.
        values: [N] values of the states before each token.
        entropy: [N] entropy of the policy at each token, or [0].
    """

    logprobs: torch.Tensor
    values: torch.Tensor
    entropy: torch.Tensor


class ActorCritic(nn.Module):
    """Policy and value function.

    Args:
        policy: a causal language model.
        value: a ``ValueHead`` or a ``Critic``.
        temperature: sampling temperature; log probabilities are taken at the same.
    """

    def __init__(self, policy: PreTrainedModel, value: nn.Module, temperature: float) -> None:
        super().__init__()
        self.policy, self.value, self.temperature = policy, value, temperature

    def forward(
        self, sequences: Sequence[torch.Tensor], starts: Sequence[int], with_entropy: bool = False
    ) -> Evaluation:
        """Evaluate the tokens of each sequence from ``starts[i]`` on."""
        logprobs, entropy, before = continuation_logprobs(
            self.policy, sequences, starts, self.temperature, with_entropy
        )
        return Evaluation(logprobs, self.value(before, sequences, starts), entropy)
