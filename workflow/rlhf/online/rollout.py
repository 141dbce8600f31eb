"""Responses sampled for one update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from rlhf.models.generate import Response
from rlhf.training import distributed


class Replaced(NamedTuple):
    """Groups that dynamic sampling replaced in one update, on all ranks.

    Attributes:
        rounds: rounds of sampling.
        groups: groups that were dropped.
        equal: groups of the batch whose rewards are equal nevertheless.
        tokens: of the dropped groups, prompts and responses.
    """

    rounds: int
    groups: int
    equal: int
    tokens: int


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
        replaced: what dynamic sampling replaced; None without it.
    """

    examples: list[dict[str, Any]]
    sequences: list[torch.Tensor]
    starts: list[int]
    lengths: list[list[int]]
    ended: torch.Tensor
    sampled: list[torch.Tensor]
    logprobs: list[torch.Tensor]
    values: list[torch.Tensor]
    replaced: Replaced | None = None

    def __len__(self) -> int:
        return len(self.sequences)

    @classmethod
    def drawn(
        cls,
        examples: Sequence[dict[str, Any]],
        prompts: Sequence[torch.Tensor],
        responses: Sequence[Response],
    ) -> Rollout:
        """Responses as they were sampled, without log probabilities of the trainer."""
        sequences = [
            torch.cat([prompt, response.ids])
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        return cls(
            list(examples),
            sequences,
            [len(prompt) for prompt in prompts],
            _all_lengths(sequences),
            torch.tensor([response.ended for response in responses], dtype=torch.bool),
            [response.logprobs for response in responses],
            [],
            [],
        )

    def part(self, rows: slice) -> Rollout:
        """Some of the responses, as they were sampled; their lengths are this rank's alone."""
        sequences = self.sequences[rows]
        return Rollout(
            self.examples[rows],
            sequences,
            self.starts[rows],
            [[len(ids) for ids in sequences]],
            self.ended[rows],
            self.sampled[rows],
            [],
            [],
        )

    @classmethod
    def joined(cls, parts: Sequence[Rollout]) -> Rollout:
        """Parts, one after the other; all ranks call this together."""
        sequences = [ids for part in parts for ids in part.sequences]
        return cls(
            [example for part in parts for example in part.examples],
            sequences,
            [start for part in parts for start in part.starts],
            _all_lengths(sequences),
            torch.cat([part.ended for part in parts]),
            [logprobs for part in parts for logprobs in part.sampled],
            [],
            [],
        )


def _all_lengths(sequences: Sequence[torch.Tensor]) -> list[list[int]]:
    """Rank → tokens of each of its sequences."""
    return distributed.gather([[len(ids) for ids in sequences]])
