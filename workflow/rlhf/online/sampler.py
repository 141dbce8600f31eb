"""Where responses come from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from rlhf.models.decoding import PLAIN, Decoding
from rlhf.models.generate import Response, generate, uniforms
from rlhf.models.publish import below
from rlhf.models.replica import replica
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
        """Take over the policy's weights before responses are sampled.

        Args:
            weights: name in what is trained → whole tensor; all ranks take all of them, or none.
        """


class ModelSampler:
    """Samples in this process, from the very model that is trained.

    Args:
        policy: a part of what is trained.
        eos_id: the token that ends a response.
        max_new_tokens: longest response.
        temperature: logits are divided by this.
        decoding: which tokens can be drawn, and stop texts.
    """

    def __init__(
        self,
        policy: TokenScorer,
        eos_id: int,
        max_new_tokens: int,
        temperature: float,
        decoding: Decoding = PLAIN,
    ) -> None:
        self._policy, self._eos_id, self._decoding = policy, eos_id, decoding
        self._max_new_tokens, self._temperature = max_new_tokens, temperature

    def sample(self, prompts: Sequence[torch.Tensor], noise: Noise) -> list[Response]:
        """See ``Sampler``."""
        draws = uniforms(noise.random, noise.total, self._max_new_tokens)  # [total, S]
        own = draws[list(noise.rows)]  # [n, S]
        return generate(
            self._policy, prompts, own, self._eos_id, self._temperature, decoding=self._decoding
        )

    def refresh(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Nothing to do: training changes the model itself."""


class ReplicaSampler:
    """Samples in this process, from a whole copy of the policy, which may be narrow.

    A step of sampling reads all weights for a single token a row. Of a policy that is spread over
    the ranks they would be gathered for every token, at far more than the token's cost, and ranks
    with other lengths would wait for each other. The copy is there while responses are sampled,
    and no longer; log probabilities that are trained on never come from it.

    Args:
        policy: a part of what is trained.
        prefix: of the policy's names in what is trained.
        eos_id: the token that ends a response.
        max_new_tokens: longest response.
        temperature: logits are divided by this.
        dtype: type of the copy's weights.
        decoding: which tokens can be drawn, and stop texts.
    """

    def __init__(
        self,
        policy: TokenScorer,
        prefix: str,
        eos_id: int,
        max_new_tokens: int,
        temperature: float,
        dtype: torch.dtype = torch.float32,
        decoding: Decoding = PLAIN,
    ) -> None:
        self._policy, self._prefix, self._eos_id = policy, f"{prefix}model.", eos_id
        self._max_new_tokens, self._temperature = max_new_tokens, temperature
        self._dtype, self._decoding = dtype, decoding
        self._replica: TokenScorer | None = None

    def refresh(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """See ``Sampler``."""
        self._replica = replica(self._policy, below(weights, self._prefix), self._dtype)

    def sample(self, prompts: Sequence[torch.Tensor], noise: Noise) -> list[Response]:
        """See ``Sampler``; the copy is dropped then."""
        copy = self._take()
        sampler = ModelSampler(
            copy, self._eos_id, self._max_new_tokens, self._temperature, self._decoding
        )
        return sampler.sample(prompts, noise)

    def _take(self) -> TokenScorer:
        """The copy, for the last time."""
        copy, self._replica = self._replica, None
        assert copy is not None
        return copy
