"""The part of an on-policy method that is its own: advantages and loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch

from rlhf.models.devices import moved
from rlhf.online.loss_weights import LossWeights
from rlhf.online.rollout import Rollout
from rlhf.training.engine.protocol import Engine


class ActorOutput(NamedTuple):
    """The output of what is trained on some responses, all tokens joined.

    Attributes:
        logprobs: [N], log π of the response tokens at the sampling temperature.
        values: [N], values of the states before each token; [0] without a value function.
        entropy: [N], entropy of the policy at each token; [0] if it was not asked for. It has a
            gradient where there is an entropy bonus.
    """

    logprobs: torch.Tensor
    values: torch.Tensor
    entropy: torch.Tensor


class Credit(NamedTuple):
    """What an algorithm makes of the rewards.

    Attributes:
        advantages: n × [L_i].
        returns: n × [L_i], targets of the value function; n × [0] without one.
    """

    advantages: list[torch.Tensor]
    returns: list[torch.Tensor]


@dataclass(frozen=True)
class Experience:
    """A rollout with all that its updates need.

    Attributes:
        rollout: the responses.
        reference: n × [L_i], log π_ref of the response tokens.
        raw_scores: [n], as the reward gave them.
        scores: [n], calibrated, scaled, clipped, less the penalty for a missing EOS.
        credit: advantages and returns.
        importance: n × [L_i], weights of the tokens in the policy's loss.
        kl_coefficient: β of this update.
        weights: weights of the responses in the loss.
        token_rewards: [n], sums of the rewards that tokens have besides, or None.
        terms: name → [n], what each term of the reward says; empty if there is but one.
    """

    rollout: Rollout
    reference: list[torch.Tensor]
    raw_scores: torch.Tensor
    scores: torch.Tensor
    credit: Credit
    importance: list[torch.Tensor]
    kl_coefficient: float
    weights: LossWeights
    token_rewards: torch.Tensor | None = None
    terms: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """The response tokens of one micro-batch, joined.

    Attributes:
        new: the actor's output on them, with gradients.
        logprobs: [N], log π when they were sampled.
        values: [N], values then; [0] without a value function.
        advantages: [N].
        returns: [N], or [0].
        importance: [N], weights of the tokens in the policy's loss; 1 without a correction.
        reference: [N], log π_ref.
        weights: [N], weights of the tokens in all terms of the loss: the sum of weighted terms,
            divided by the tokens of the minibatch, is their mean as ``loss.aggregate`` has it.
        sizes: tokens of each response.
        kl_coefficient: β.
    """

    new: ActorOutput
    logprobs: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    importance: torch.Tensor
    reference: torch.Tensor
    weights: torch.Tensor
    sizes: list[int]
    kl_coefficient: float

    @classmethod
    def of(
        cls, experience: Experience, indices: Sequence[int], new: ActorOutput, scale: float = 1.0
    ) -> Batch:
        """Some responses' tokens, on the device of the actor's output.

        Args:
            experience: the rollout.
            indices: of the responses.
            new: the actor's output on them.
            scale: of the weights in the loss.
        """

        def joined(parts: list[torch.Tensor]) -> torch.Tensor:
            return moved(torch.cat([parts[i] for i in indices]), device)

        device = new.logprobs.device
        rollout, credit = experience.rollout, experience.credit
        sizes = [len(rollout.logprobs[i]) for i in indices]
        weights = [scale * experience.weights.of_token[i] for i in indices]
        return cls(
            new,
            joined(rollout.logprobs),
            joined(rollout.values),
            joined(credit.advantages),
            joined(credit.returns),
            joined(experience.importance),
            joined(experience.reference),
            moved(torch.tensor(weights).repeat_interleave(torch.tensor(sizes)), device),
            sizes,
            experience.kl_coefficient,
        )


class Mixed(Protocol):
    """What the policy learns beside its rollouts, in every optimizer step."""

    def accumulate(self, engine: Engine) -> dict[str, float]:
        """Add the gradients of the next rows; means of measures over all ranks."""

    def state(self) -> dict[str, Any]:
        """For the saved state."""

    def load(self, state: dict[str, Any]) -> None:
        """From a saved state."""


class Algorithm(Protocol):
    """What sets one on-policy method apart from the others."""

    def advantages(self, rollout: Rollout, rewards: list[torch.Tensor]) -> Credit:
        """Advantages of the response tokens.

        Args:
            rollout: this rank's responses.
            rewards: n × [L_i], with the KL penalty in them.
        """

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The *sum* of the loss over the batch's tokens, and sums of other measures."""
