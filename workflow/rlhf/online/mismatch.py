"""How far what samples is from what is trained, and the correction for it.

A sampler of its own rounds otherwise than the trainer's forward pass, so responses come from a
slightly different policy than the one whose gradient is taken. Both log probabilities of every
token are known, so the difference is measured, bounded, and corrected on request.
"""

from __future__ import annotations

import torch

from rlhf.errors import NumericsError
from rlhf.online.kl import approximate_kl
from rlhf.online.rollout import Rollout
from rlhf.training import distributed
from rlhf.training.sums import Sums


def importance_weights(rollout: Rollout, cap: float | None) -> list[torch.Tensor]:
    """Truncated importance weights of the response tokens, n × [L_i]; 1 where ``cap`` is None.

    w = min(π / μ, C) with the trainer's probability π and the sampler's μ of each token (Ionides
    2008, "Truncated Importance Sampling"; for language models Yao et al. 2025, "Your Efficient RL
    Framework Secretly Brings You Off-Policy RL Training").

    Args:
        rollout: with the log probabilities of both.
        cap: C.
    """
    if cap is None:
        return [torch.ones_like(part) for part in rollout.logprobs]
    pairs = zip(rollout.logprobs, rollout.sampled, strict=True)
    return [(own - sampled).exp().clamp(max=cap) for own, sampled in pairs]


def measure(rollout: Rollout, weights: list[torch.Tensor], cap: float | None) -> dict[str, float]:
    """Figures of the mismatch over the response tokens of all ranks.

    Args:
        rollout: with the log probabilities of trainer and sampler.
        weights: what ``importance_weights`` made of it.
        cap: of the weights; None: none are used, and none are measured.
    """
    own, sampled = torch.cat(rollout.logprobs), torch.cat(rollout.sampled)  # [N]
    gap = (own - sampled).abs().double()  # [N]
    sums = Sums()
    sums.add({"sampler_mismatch": gap.sum(), "sampler_kl": approximate_kl(own, sampled).sum()})
    if cap is not None:
        joined = torch.cat(weights)
        sums.add({"importance_weight": joined.sum(), "truncated": (joined == cap).sum()})
    (tokens,) = distributed.total([len(own)])
    largest = max(distributed.gather([float(gap.max())]))
    return sums.over_ranks().means(tokens) | {"max_sampler_mismatch": largest}


def check(measures: dict[str, float], bound: float, where: str, key: str) -> None:
    """Refuse a sampler that is too far from what is trained to have its weights.

    Args:
        measures: what ``measure`` found.
        bound: largest mean difference of the log probabilities, in nats per token.
        where: the run and its update.
        key: of the bound, in the configuration.

    Raises:
        NumericsError: it is larger.
    """
    mean = measures["sampler_mismatch"]
    if not mean <= bound:
        raise NumericsError(
            f"The sampler's log probabilities are {mean:.3g} nats per token away from the "
            "trainer's: it does not sample from the policy that is trained.",
            where=where,
            expected=f"at most {bound:g} in the mean ({key})",
            hint="`sampling.sampler: loop` samples with the trainer's own weights; where the "
            f"difference is rounding alone, raise {key}",
        )
