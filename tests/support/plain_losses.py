"""Log probabilities without any of our code: full logits, one sequence at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F


def token_logprobs(model: Any, history: list[int], reply: list[int]) -> torch.Tensor:
    """log π of each token of a reply, in the type of the model's weights."""
    logits = model(input_ids=torch.tensor([history + reply])).logits[0]
    known = F.log_softmax(logits, dim=-1)
    places = range(len(history), len(history) + len(reply))
    return torch.stack([known[i - 1, (history + reply)[i]] for i in places])
