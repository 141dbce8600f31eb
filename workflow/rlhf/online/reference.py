"""Where log probabilities under the reference come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from rlhf.models.roots import TokenScorer
from rlhf.models.scoring import sequence_logprobs
from rlhf.online.rollout import Rollout
from rlhf.training import distributed
from rlhf.training.engine.protocol import Engine

if TYPE_CHECKING:
    from rlhf.serving.client import TritonScorer


class Reference(Protocol):
    """The policy that the KL penalty holds the trained one to.

    Attributes:
        remote: whether the work is done outside of this process.
    """

    remote: bool

    def logprobs(self, rollout: Rollout) -> list[torch.Tensor]:
        """n × [L_i], log π_ref of the response tokens at the sampling temperature, in nats."""


class ReferenceModel:
    """A frozen model in this process.

    Args:
        model: a language model, such as the SFT model.
        temperature: sampling temperature of the policy.
        max_tokens: padded tokens in one forward pass.
    """

    remote = False

    def __init__(self, model: TokenScorer, temperature: float, max_tokens: int) -> None:
        self._model, self._temperature, self._max_tokens = model.eval(), temperature, max_tokens

    @torch.no_grad()
    def logprobs(self, rollout: Rollout) -> list[torch.Tensor]:
        """See ``Reference``."""
        return sequence_logprobs(
            self._model,
            rollout.sequences,
            rollout.starts,
            self._temperature,
            self._max_tokens,
            distributed.most,
        )


class AdapterOff:
    """The policy as it started: without its adapter, at no memory; or through a frozen branch.

    Args:
        engine: around an ``Actor`` or ``ActorCritic``.
        policy: the policy in it.
        temperature: sampling temperature of both.
        max_tokens: padded tokens in one forward pass.
    """

    remote = False

    def __init__(
        self, engine: Engine, policy: TokenScorer, temperature: float, max_tokens: int
    ) -> None:
        self._engine, self._policy = engine, policy
        self._temperature, self._max_tokens = temperature, max_tokens

    @torch.no_grad()
    def logprobs(self, rollout: Rollout) -> list[torch.Tensor]:
        """See ``Reference``."""
        return sequence_logprobs(
            self._policy,
            rollout.sequences,
            rollout.starts,
            self._temperature,
            self._max_tokens,
            distributed.most,
            self._forward,
        )

    def _forward(
        self,
        sequences: Sequence[torch.Tensor],
        places: Sequence[torch.Tensor],
        temperature: float,
        prompts: Sequence[int],
    ) -> tuple[torch.Tensor, ...]:
        """As a ``TokenScorer``, through the engine: ``places`` are those after the prompts."""
        return self._engine(sequences, [prompt + 1 for prompt in prompts], adapted=False)


class ServedReference:
    """A model behind a Triton server.

    Args:
        client: of the reference's server.
        temperature: sampling temperature of the policy.
    """

    remote = True

    def __init__(self, client: TritonScorer, temperature: float) -> None:
        self._client, self._temperature = client, temperature

    def logprobs(self, rollout: Rollout) -> list[torch.Tensor]:
        """See ``Reference``."""
        arrays = [ids.numpy() for ids in rollout.sequences]
        answers = self._client.logprobs(arrays, rollout.starts, self._temperature)
        return [torch.from_numpy(logprobs) for logprobs in answers]
