"""From the reward model's raw scores to per-token rewards, in one place and one order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from rlhf.ppo.kl import kl_estimate
from rlhf.training import distributed

ROUNDING = 2.0**-20  # float32 scores that differ by less, for their size, are equal


class RunningScale:
    """Standard deviation of all scores so far, over all ranks; the mean is never subtracted.

    Secrets of RLHF (arXiv 2307.04964), section 5.3.1. Batches are merged by the method of Chan,
    Golub and LeVeque (1979).
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0.0, 0.0, 0.0

    def update(self, scores: torch.Tensor) -> float:
        """Take in this rank's scores [n]; returns the standard deviation so far.

        It is 1 until scores differ by more than rounding does.
        """
        values = scores.double()
        count, total = distributed.total([len(values), float(values.sum())])
        mean = total / count
        (squares,) = distributed.total([float(((values - mean) ** 2).sum())])
        shift, together = mean - self.mean, self.count + count
        self.squares += squares + shift**2 * self.count * count / together
        self.mean += shift * count / together
        self.count = together
        std = math.sqrt(self.squares / self.count)
        return std if std > ROUNDING * abs(self.mean) else 1.0

    def state(self) -> dict[str, float]:
        """For the saved state."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load(self, state: dict[str, float]) -> None:
        """From a saved state."""
        self.count, self.mean, self.squares = state["count"], state["mean"], state["squares"]


def shape_scores(
    raw: torch.Tensor,
    ended: torch.Tensor,
    calibration: tuple[float, float],
    config: dict[str, Any],
    scale: RunningScale,
) -> torch.Tensor:
    """Scores as PPO uses them.

    In this order: calibrate → scale → clip → missing-EOS penalty. The KL penalty comes after, per
    token, in ``token_rewards``. With mean 1, std 2, clip 1 and penalty 1:

    ====  =====  ==========  =======  =======
    raw   ended  calibrated  clipped  result
    ====  =====  ==========  =======  =======
    2.0   yes     0.5         0.5      0.5
    9.0   yes     4.0         1.0      1.0
    9.0   no      4.0         1.0      0.0
    -9.0  no     -5.0        -1.0     -2.0
    ====  =====  ==========  =======  =======

    Args:
        raw: [n] scores of the reward model.
        ended: [n] bool, whether the response has its EOS.
        calibration: mean and std of the raw scores on demonstrations.
        config: the ``rewards`` section.
        scale: running scale, used when ``scaling`` is ``running``.
    """
    mean, std = calibration
    scores = (raw - mean) / std
    if config["scaling"] == "running":
        scores = scores / scale.update(scores)
    scores = scores.clamp(-config["clip"], config["clip"])
    return scores - config["missing_eos_penalty"] * (~ended).float()


def leave_one_out(scores: torch.Tensor, responses: int) -> torch.Tensor:
    """Each score less the mean of the other responses to the same prompt.

    What a prompt is worth by itself is then no part of the advantage. RLOO, Ahmadian et al. 2024
    (arXiv 2402.14740), section 2.3.

    Args:
        scores: [n] of this rank, whose rows are every ``world_size``-th of the global batch.
        responses: k ≥ 2, neighbours in the global batch that share a prompt.
    """
    ranks = distributed.world_size()
    shares = distributed.gather([scores.double().cpu()])
    everyone = scores.new_empty(sum(map(len, shares)), dtype=torch.float64, device="cpu")
    for rank, share in enumerate(shares):
        everyone[rank::ranks] = share
    groups = everyone.view(-1, responses)
    others = (groups.sum(1, keepdim=True) - groups) / (responses - 1)
    centred = (groups - others).flatten()[distributed.rank() :: ranks]
    return centred.to(scores)


def token_rewards(
    scores: torch.Tensor,
    logprobs: Sequence[torch.Tensor],
    reference: Sequence[torch.Tensor],
    coefficient: float,
    estimator: str,
) -> list[torch.Tensor]:
    """Per-token rewards: −β·KL on every token, the score added on the last one alone.

    Args:
        scores: [n] from ``shape_scores``.
        logprobs: per response [L_i], log π of its tokens.
        reference: per response [L_i], log π_ref.
        coefficient: β.
        estimator: see ``kl_estimate``.
    """
    rewards = []
    for value, policy, ref in zip(scores, logprobs, reference, strict=True):
        reward = -coefficient * kl_estimate(policy, ref, estimator)
        reward[-1] += value
        rewards.append(reward)
    return rewards
