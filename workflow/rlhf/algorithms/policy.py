"""The policy's loss, which all on-policy methods share.

For each response token: the clipped objective, or plain REINFORCE without ``clip``; a KL penalty,
where it is not in the reward; an entropy bonus. Shapes: N tokens of a micro-batch, joined.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rlhf.config.online import OnlineConfig
from rlhf.online.algorithm import Batch
from rlhf.online.kl import approximate_kl, kl_estimate


def policy_objective(
    batch: Batch, config: OnlineConfig
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The sum of the policy's loss over a batch's tokens, and sums of its measures.

    Args:
        batch: tokens with their advantages and weights.
        config: the run's configuration.
    """
    logprobs, old = batch.new.logprobs, batch.logprobs  # [N]
    if config.clip is None:
        policy = -batch.advantages * logprobs  # [N]
        clipped = torch.zeros_like(policy)
    else:
        log_ratio = logprobs - old  # [N]
        if config.loss.ratio == "sequence":
            log_ratio = sequence_log_ratio(log_ratio, batch.sizes)
        low, high, dual = config.clip, config.loss.clip_high, config.loss.dual_clip
        policy, clipped = policy_loss(log_ratio, batch.advantages, low, high, dual)
    policy = batch.importance * policy * batch.weights
    loss = policy.sum()
    measures = {"policy_loss": loss.detach()}
    if config.kl.in_loss:
        kl = kl_estimate(logprobs, batch.reference, config.kl.estimator) * batch.weights  # [N]
        loss = loss + batch.kl_coefficient * kl.sum()
        measures["kl_loss"] = kl.detach().sum()
    if config.loss.entropy_coefficient:
        bonus = (batch.new.entropy * batch.weights).sum()
        loss = loss - config.loss.entropy_coefficient * bonus
    with torch.no_grad():
        measures["approx_kl"] = approximate_kl(logprobs, old).sum()
        measures["clip_fraction"] = clipped.sum()
    return loss, measures


def policy_loss(
    log_ratio: torch.Tensor,
    advantages: torch.Tensor,
    clip: float,
    clip_high: float | None = None,
    dual_clip: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The pessimistic maximum of the negated objectives (Schulman et al. 2017, equation 7).

    Args:
        log_ratio: [N] log π − log π_old of the tokens.
        advantages: [N].
        clip: how far below 1 the ratio counts.
        clip_high: how far above 1, if not as far (DAPO, Yu et al. 2025, section 3.1).
        dual_clip: largest ratio by which a negative advantage is multiplied (Ye et al. 2020,
            equation 5); None: there is none.

    Returns:
        Per-token loss [N], and whether clipping decided it [N] (bool).
    """
    ratio = log_ratio.exp()
    high = clip if clip_high is None else clip_high
    plain = -advantages * ratio
    near = -advantages * ratio.clamp(1 - clip, 1 + high)
    loss, clipped = torch.maximum(plain, near), near > plain
    if dual_clip is not None:
        most = torch.where(advantages < 0, -advantages * dual_clip, torch.inf)
        loss, clipped = torch.minimum(loss, most), clipped | (loss > most)
    return loss, clipped


def sequence_log_ratio(log_ratio: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """The mean log ratio of each token's response [N], with the token's own gradient.

    GSPO-token (Zheng et al. 2025, arXiv 2507.18071, equation 14). Where all tokens of a response
    share an advantage, their mean has the value and the gradient of GSPO (equation 5).

    Args:
        log_ratio: [N] log π − log π_old of the tokens.
        sizes: tokens of each response.
    """
    fixed = log_ratio.detach()
    means = [part.mean().expand(len(part)) for part in fixed.split(list(sizes))]
    return torch.cat(means) + (log_ratio - fixed)
