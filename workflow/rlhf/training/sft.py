"""Supervised fine-tuning: next-token cross-entropy on the assistant's tokens alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from rlhf.models.forward import hidden_states, token_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IGNORED = -100


class SftObjective:
    """Cross-entropy over labelled tokens; the head runs only where a label is."""

    def cost(self, row: dict[str, Any]) -> int:
        """Tokens of the row."""
        return len(row["input_ids"])

    def weight(self, row: dict[str, Any]) -> float:
        """Labelled tokens that have a token before them."""
        return sum(label != IGNORED for label in row["labels"][1:])

    def __call__(
        self, model: PreTrainedModel, rows: list[dict[str, Any]]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Sum of −log π over the labelled tokens, in nats; no other measures."""
        hidden = hidden_states(model, [torch.tensor(row["input_ids"]) for row in rows])
        labels = [torch.tensor(row["labels"]) for row in rows]
        places = [torch.nonzero(label[1:] != IGNORED).squeeze(1) for label in labels]
        before = torch.cat([hidden[i, where] for i, where in enumerate(places)])
        targets = torch.cat([label[1:][where] for label, where in zip(labels, places, strict=True)])
        logprobs, _ = token_logprobs(model, before, targets)
        return -logprobs.sum(), {}
