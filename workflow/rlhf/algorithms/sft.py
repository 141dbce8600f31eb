"""Supervised fine-tuning: next-token cross-entropy or PolyLoss on the assistant's or all tokens."""

from __future__ import annotations

from typing import Any

import torch

from rlhf.config.sft import LossConfig
from rlhf.data.labels import IGNORED
from rlhf.training.engine.protocol import Forward
from rlhf.training.sums import Measures

CROSS_ENTROPY = LossConfig()


class SftObjective:
    """The loss over labelled tokens, or all; the head runs only where a token is learned.

    Args:
        loss: the loss of a token, and which tokens have one.
    """

    def __init__(self, loss: LossConfig = CROSS_ENTROPY) -> None:
        self._loss = loss

    def shape(self, row: dict[str, Any]) -> tuple[int, int]:
        """One row of so many tokens."""
        return 1, len(row["input_ids"])

    def weight(self, row: dict[str, Any]) -> float:
        """Tokens that are learned and have a token before them."""
        return sum(label != IGNORED for label in self._labels(row)[1:])

    def __call__(
        self, scorer: Forward, rows: list[dict[str, Any]]
    ) -> tuple[torch.Tensor, Measures]:
        """Sum of the loss over the learned tokens; where that is PolyLoss, of −log π too (nats).

        Args:
            scorer: a ``TokenScorer``, or an engine around one.
            rows: ``input_ids`` and ``labels``, which repeat the ids that are learned.
        """
        labels = [torch.tensor(self._labels(row)) for row in rows]
        places = [torch.nonzero(label[1:] != IGNORED).squeeze(1) + 1 for label in labels]
        logprobs, _ = scorer([torch.tensor(row["input_ids"]) for row in rows], places)
        cross_entropy = -logprobs.sum()
        if self._loss.kind == "cross_entropy":
            return cross_entropy, {}
        loss = poly_loss(logprobs, self._loss.epsilon).sum()
        return loss, {"cross_entropy": cross_entropy.detach()}

    def _labels(self, row: dict[str, Any]) -> list[int]:
        return row["input_ids"] if self._loss.tokens == "all" else row["labels"]


def poly_loss(logprobs: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Poly-1 loss of each token [N]: −log p + ε(1 − p).

    Cross-entropy is Σ (1 − p)ʲ/j; this changes the weight of its first term by ε. Leng et al. 2022
    (arXiv 2204.12511), equation 6.

    Args:
        logprobs: log p [N] of the tokens, in nats.
        epsilon: ε.
    """
    return -logprobs + epsilon * (1 - logprobs.exp())
