"""Scores and reference log probabilities: one interface, in-process or over Triton."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import torch

from rlhf.models.roots import ReplyScorer, TokenScorer
from rlhf.models.scoring import score, sequence_logprobs
from rlhf.serving.client import TritonScorer


class Scoring(ABC):
    """What PPO asks of the reward model and the reference."""

    elsewhere: ClassVar[bool] = False  # whether the two work outside of this process, side by side

    @abstractmethod
    def rewards(self, sequences: Sequence[torch.Tensor], starts: Sequence[int]) -> torch.Tensor:
        """Raw scores [n] of whole sequences; responses begin at ``starts[i]``."""

    @abstractmethod
    def reference_logprobs(
        self, sequences: Sequence[torch.Tensor], starts: Sequence[int], temperature: float
    ) -> list[torch.Tensor]:
        """For each sequence, log probabilities of its tokens from ``starts[i]`` on, in nats."""

    def both(
        self,
        closed: Sequence[torch.Tensor],
        sequences: Sequence[torch.Tensor],
        starts: Sequence[int],
        temperature: float,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Rewards of the closed sequences, and reference log probabilities of the sampled ones."""
        if not self.elsewhere:
            return self.rewards(closed, starts), self.reference_logprobs(
                sequences, starts, temperature
            )
        with ThreadPoolExecutor(1) as pool:
            scores = pool.submit(self.rewards, closed, starts)
            found = self.reference_logprobs(sequences, starts, temperature)
            return scores.result(), found


class LocalScoring(Scoring):
    """Both models in this process.

    Args:
        reward_model: a trained reward model.
        reference: the frozen SFT model.
        max_tokens: padded tokens in one forward pass.
    """

    def __init__(self, reward_model: ReplyScorer, reference: TokenScorer, max_tokens: int) -> None:
        self._reward, self._reference = reward_model.eval(), reference.eval()
        self._tokens = max_tokens

    @torch.no_grad()
    def rewards(self, sequences: Sequence[torch.Tensor], starts: Sequence[int]) -> torch.Tensor:
        """See ``Scoring``."""
        return score(self._reward, sequences, self._tokens, starts).cpu()

    @torch.no_grad()
    def reference_logprobs(
        self, sequences: Sequence[torch.Tensor], starts: Sequence[int], temperature: float
    ) -> list[torch.Tensor]:
        """See ``Scoring``."""
        return sequence_logprobs(self._reference, sequences, starts, temperature, self._tokens)


class TritonScoring(Scoring):
    """Both models behind Triton servers, which work at the same time.

    Args:
        reward: client of the reward model.
        reference: client of the reference.
    """

    elsewhere = True

    def __init__(self, reward: TritonScorer, reference: TritonScorer) -> None:
        self._reward, self._reference = reward, reference

    def rewards(self, sequences: Sequence[torch.Tensor], starts: Sequence[int]) -> torch.Tensor:
        """See ``Scoring``; the server sees by itself which rows begin alike."""
        return torch.from_numpy(self._reward.rewards([s.numpy() for s in sequences]))

    def reference_logprobs(
        self, sequences: Sequence[torch.Tensor], starts: Sequence[int], temperature: float
    ) -> list[torch.Tensor]:
        """See ``Scoring``."""
        arrays = [s.numpy() for s in sequences]
        found = self._reference.logprobs(arrays, list(starts), temperature)
        return [torch.from_numpy(one) for one in found]
