"""Supervised fine-tuning: next-token cross-entropy on the assistant's tokens alone."""

from __future__ import annotations

from typing import Any

import torch

from rlhf.data.labels import IGNORED
from rlhf.training.engine.protocol import Forward
from rlhf.training.sums import Measures


class SftObjective:
    """Cross-entropy over labelled tokens; the head runs only where a label is."""

    def shape(self, row: dict[str, Any]) -> tuple[int, int]:
        """One row of so many tokens."""
        return 1, len(row["input_ids"])

    def weight(self, row: dict[str, Any]) -> float:
        """Labelled tokens that have a token before them."""
        return sum(label != IGNORED for label in row["labels"][1:])

    def __call__(
        self, scorer: Forward, rows: list[dict[str, Any]]
    ) -> tuple[torch.Tensor, Measures]:
        """Sum of −log π over the labelled tokens, in nats; no other measures.

        Args:
            scorer: a ``TokenScorer``, or an engine around one.
            rows: ``input_ids`` and ``labels``, which repeat the ids that are learned.
        """
        labels = [torch.tensor(row["labels"]) for row in rows]
        places = [torch.nonzero(label[1:] != IGNORED).squeeze(1) + 1 for label in labels]
        logprobs, _ = scorer([torch.tensor(row["input_ids"]) for row in rows], places)
        return -logprobs.sum(), {}
