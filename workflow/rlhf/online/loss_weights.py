"""What a response counts in the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rlhf.online.rollout import Rollout

if TYPE_CHECKING:
    from rlhf.config.online import OnlineConfig


class LossWeights(NamedTuple):
    """Weights of a rank's responses; a minibatch's loss is Σ weight · term ÷ Σ count.

    Attributes:
        of_token: n, of every token of each response.
        counts: n, what each adds to the divisor.
    """

    of_token: list[float]
    counts: list[float]


def loss_weights(rollout: Rollout, config: OnlineConfig) -> LossWeights:
    """Weights by ``loss.aggregate``; 0 for responses that did not end, if these are masked.

    - ``token``: a mean over all tokens.
    - ``response``: a mean over each response's tokens, then over responses.
    - ``constant``: a sum over each response's tokens divided by the longest length that it may
      have, then a mean over responses (Dr. GRPO, Liu et al. 2025, section 3.2).

    Args:
        rollout: the responses.
        config: the run's configuration.
    """
    lengths = [len(part) for part in rollout.logprobs]
    weights, counts = [1.0] * len(lengths), [float(length) for length in lengths]
    if config.loss.aggregate != "token":
        longest = config.sampling.max_new_tokens
        by_length = config.loss.aggregate == "response"
        weights = [1 / (length if by_length else longest) for length in lengths]
        counts = [1.0] * len(lengths)
    if config.overlong.mask:
        ended = rollout.ended.tolist()
        weights = [weight * whole for weight, whole in zip(weights, ended, strict=True)]
        counts = [count * whole for count, whole in zip(counts, ended, strict=True)]
    return LossWeights(weights, counts)
