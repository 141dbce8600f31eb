"""Responses sampled for one update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Rollout:
    """This rank's responses; those to one prompt stand together, k of them.

    Attributes:
        examples: n rows of the prompts, as ``PromptStream`` gives them.
        sequences: n × [P_i + L_i], token ids of prompt and response.
        starts: n, P_i: index of the first response token.
        lengths: rank → tokens of each of its sequences; all ranks know them.
        ended: [n] bool, whether the response has its EOS.
        sampled: n × [L_i], log probabilities of the response tokens, as the sampler has them.
        logprobs: n × [L_i], log π of the response tokens when they were sampled.
        values: n × [L_i], value of the state before each token; n × [0] without a value function.
    """

    examples: list[dict[str, Any]]
    sequences: list[torch.Tensor]
    starts: list[int]
    lengths: list[list[int]]
    ended: torch.Tensor
    sampled: list[torch.Tensor]
    logprobs: list[torch.Tensor]
    values: list[torch.Tensor]

    def __len__(self) -> int:
        return len(self.sequences)
