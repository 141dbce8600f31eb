"""Scores and reference log probabilities: one interface, in-process or over Triton."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from rlhf.models.forward import batches_by_length, continuation_logprobs
from rlhf.models.reward import score
from rlhf.serving.client import TritonScorer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Scoring(Protocol):
    """What PPO asks of the reward model and the reference."""

    def rewards(self, sequences: Sequence[torch.Tensor]) -> torch.Tensor:
        """Raw scores [n] of whole sequences, query and response."""

    def reference_logprobs(
        self, sequences: Sequence[torch.Tensor], starts: Sequence[int], temperature: float
    ) -> list[torch.Tensor]:
        """For each sequence, log probabilities of its tokens from ``starts[i]`` on, in nats."""


class LocalScoring:
    """Both models in this process.

    Args:
        reward_model: a trained reward model.
        reference: the frozen SFT model.
        max_tokens: padded tokens in one forward pass.
    """

    def __init__(
        self, reward_model: PreTrainedModel, reference: PreTrainedModel, max_tokens: int
    ) -> None:
        self._reward, self._reference = reward_model.eval(), reference.eval()
        self._tokens = max_tokens

    @torch.no_grad()
    def rewards(self, sequences: Sequence[torch.Tensor]) -> torch.Tensor:
        """See ``Scoring``."""
        return score(self._reward, sequences, self._tokens).cpu()

    @torch.no_grad()
    def reference_logprobs(
        self, sequences: Sequence[torch.Tensor], starts: Sequence[int], temperature: float
    ) -> list[torch.Tensor]:
        """See ``Scoring``."""
        found: list[torch.Tensor] = [torch.empty(0)] * len(sequences)
        for rows in batches_by_length([len(s) for s in sequences], self._tokens):
            chosen, begins = [sequences[i] for i in rows], [starts[i] for i in rows]
            logprobs, _, _ = continuation_logprobs(self._reference, chosen, begins, temperature)
            sizes = [len(s) - b for s, b in zip(chosen, begins, strict=True)]
            for i, part in zip(rows, logprobs.cpu().split(sizes), strict=True):
                found[i] = part
        return found


class TritonScoring:
    """Both models behind Triton servers.

    Args:
        reward: client of the reward model.
        reference: client of the reference.
    """

    def __init__(self, reward: TritonScorer, reference: TritonScorer) -> None:
        self._reward, self._reference = reward, reference

    def rewards(self, sequences: Sequence[torch.Tensor]) -> torch.Tensor:
        """See ``Scoring``."""
        return torch.from_numpy(self._reward.rewards([s.numpy() for s in sequences]))

    def reference_logprobs(
        self, sequences: Sequence[torch.Tensor], starts: Sequence[int], temperature: float
    ) -> list[torch.Tensor]:
        """See ``Scoring``."""
        arrays = [s.numpy() for s in sequences]
        found = self._reference.logprobs(arrays, list(starts), temperature)
        return [torch.from_numpy(one) for one in found]
