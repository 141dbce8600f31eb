"""Where responses come from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from rlhf.models.generate import Response, generate, uniforms
from rlhf.models.roots import TokenScorer

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Noise:
    """The randomness of a batch of responses, the same however many ranks share the batch.

    Attributes:
        random: the stream of the whole batch.
        total: responses in the batch, on all ranks.
        rows: which of them are this rank's, in order.
    """

    random: np.random.Generator
    total: int
    rows: Sequence[int]


class Sampler(Protocol):
    """Samples responses from the policy."""

    def sample(self, prompts: Sequence[torch.Tensor], noise: Noise) -> list[Response]:
        """One response to each prompt.

        Args:
            prompts: token ids [P_i], one for each of this rank's rows of the batch.
            noise: decides the responses, together with the policy.
        """

    def refresh(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Take over the policy's weights after an update.

        Args:
            weights: name → whole tensor.
        """


class ModelSampler:
    """Samples in this process, from the very model that is trained.

    Args:
        policy: a part of what is trained.
        eos_id: the token that ends a response.
        max_new_tokens: longest response.
        temperature: logits are divided by this.
    """

    def __init__(
        self, policy: TokenScorer, eos_id: int, max_new_tokens: int, temperature: float
    ) -> None:
        self._policy, self._eos_id = policy, eos_id
        self._max_new_tokens, self._temperature = max_new_tokens, temperature

    def sample(self, prompts: Sequence[torch.Tensor], noise: Noise) -> list[Response]:
        """See ``Sampler``."""
        draws = uniforms(noise.random, noise.total, self._max_new_tokens)  # [total, S]
        own = draws[list(noise.rows)]  # [n, S]
        return generate(self._policy, prompts, own, self._eos_id, self._temperature)

    def refresh(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Nothing to do: training changes the model itself."""
