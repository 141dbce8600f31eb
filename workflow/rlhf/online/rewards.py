"""Scores of whole responses, and the rewards of their tokens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

import torch

from rlhf.models.reward import with_final_eos
from rlhf.models.roots import ReplyScorer
from rlhf.models.scoring import score
from rlhf.online.kl import KlController, kl_estimate
from rlhf.online.overlong import overlong_penalties
from rlhf.online.rollout import Rollout
from rlhf.training import distributed

if TYPE_CHECKING:
    from rlhf.config.online import OnlineConfig
    from rlhf.serving.client import TritonScorer

ROUNDING = 2.0**-20  # float32 scores that differ by less, for their size, are equal


class Reward(Protocol):
    """What scores whole responses.

    Attributes:
        remote: whether the work is done outside of this process, which then has time for other
            work.
    """

    remote: bool

    def __call__(self, rollout: Rollout) -> torch.Tensor:
        """Raw scores [n], one for each response."""


class Source(Protocol):
    """What scores whole responses, as a ``Reward`` does, or rewards their tokens."""

    remote: bool

    def __call__(self, rollout: Rollout) -> torch.Tensor | list[torch.Tensor]:
        """Scores [n], or rewards n × [L_i] of tokens."""


class RewardModel:
    """A reward model in this process.

    Args:
        model: a trained reward model.
        eos_id: the token that ends a response.
        max_tokens: padded tokens in one forward pass.
    """

    remote = False

    def __init__(self, model: ReplyScorer, eos_id: int, max_tokens: int) -> None:
        self._model, self._eos_id, self._max_tokens = model.eval(), eos_id, max_tokens

    @torch.no_grad()
    def __call__(self, rollout: Rollout) -> torch.Tensor:
        """See ``Reward``; responses to one prompt share a pass over it."""
        sequences = with_final_eos(rollout.sequences, rollout.ended.tolist(), self._eos_id)
        scores = score(
            self._model, sequences, self._max_tokens, rollout.starts, distributed.most
        )  # [n]
        return scores.cpu()


class ServedRewardModel:
    """A reward model behind a Triton server, which sees by itself which rows begin alike.

    Args:
        client: of the reward model's server.
        eos_id: the token that ends a response.
    """

    remote = True

    def __init__(self, client: TritonScorer, eos_id: int) -> None:
        self._client, self._eos_id = client, eos_id

    def __call__(self, rollout: Rollout) -> torch.Tensor:
        """See ``Reward``."""
        sequences = with_final_eos(rollout.sequences, rollout.ended.tolist(), self._eos_id)
        return torch.from_numpy(self._client.rewards([ids.numpy() for ids in sequences]))


class RunningScale:
    """Standard deviation of all scores so far, over all ranks; the mean is never subtracted.

    Secrets of RLHF (arXiv 2307.04964), section 5.3.1. Batches are merged by the method of Chan,
    Golub and LeVeque (1979).

    Args:
        first_only: take in the first scores alone, those of the policy that the run starts from.
    """

    def __init__(self, first_only: bool = False) -> None:
        self._first_only = first_only
        self.count, self.mean, self.squares = 0.0, 0.0, 0.0

    def update(self, scores: torch.Tensor) -> float:
        """Take in this rank's scores [n]; returns the standard deviation so far.

        It is 1 until scores differ by more than rounding does.
        """
        if not (self._first_only and self.count):
            self._add(scores)
        std = math.sqrt(self.squares / self.count)
        return std if std > ROUNDING * abs(self.mean) else 1.0

    def _add(self, scores: torch.Tensor) -> None:
        values = scores.double()
        count, total = distributed.total([len(values), float(values.sum())])
        mean = total / count
        (squares,) = distributed.total([float(((values - mean) ** 2).sum())])
        shift, together = mean - self.mean, self.count + count
        self.squares += squares + shift**2 * self.count * count / together
        self.mean += shift * count / together
        self.count = together

    def state(self) -> dict[str, float]:
        """For the saved state."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load(self, state: dict[str, float]) -> None:
        """From a saved state."""
        self.count, self.mean, self.squares = state["count"], state["mean"], state["squares"]


class RewardShaping:
    """From raw scores of responses to rewards of tokens.

    In this order: calibrate → scale → clip → penalties for a missing EOS and for length, which make
    the score, and −β·KL on every token, with the score added on the last one alone; rewards of
    tokens are added to theirs. With mean 1, std 2, clip 1 and a penalty of 1 for a missing EOS:

    ====  =====  ==========  =======  =====
    raw   ended  calibrated  clipped  score
    ====  =====  ==========  =======  =====
    2.0   yes     0.5         0.5      0.5
    9.0   yes     4.0         1.0      1.0
    9.0   no      4.0         1.0      0.0
    -9.0  no     -5.0        -1.0     -2.0
    ====  =====  ==========  =======  =====

    Args:
        config: the run's configuration.
        calibration: mean and std of the raw scores on demonstrations.

    Attributes:
        scale: scale of the scores.
        kl: controller of β.
    """

    def __init__(self, config: OnlineConfig, calibration: tuple[float, float]) -> None:
        self._run, self._config, self._kl = config, config.rewards, config.kl
        self._mean, self._std = calibration
        self.scale = RunningScale(first_only=config.rewards.scaling == "reference")
        self.kl = KlController(config.kl)

    def __call__(
        self,
        raw_scores: torch.Tensor,
        rollout: Rollout,
        reference: list[torch.Tensor],
        tokens: list[torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Scores [n] and rewards n × [L_i].

        Args:
            raw_scores: [n].
            rollout: the responses.
            reference: n × [L_i], log π_ref.
            tokens: n × [L_i], rewards of tokens, or None.
        """
        scores = self.calibrated(raw_scores)
        if self._config.scaling != "none":
            scores = scores / self.scale.update(scores)
        if self._config.clip is not None:
            scores = scores.clamp(-self._config.clip, self._config.clip)
        scores = scores - self.penalties(rollout)
        coefficient = 0.0 if self._kl.in_loss else self.kl.coefficient
        rewards = []
        for score_, policy, ref in zip(scores, rollout.logprobs, reference, strict=True):
            reward = -coefficient * kl_estimate(policy, ref, self._kl.estimator)  # [L_i]
            reward[-1] += score_
            rewards.append(reward)
        if tokens is not None:
            rewards = [reward + own for reward, own in zip(rewards, tokens, strict=True)]
        return scores, rewards

    def penalties(self, rollout: Rollout) -> torch.Tensor:
        """What each response pays for a missing EOS and for its length: [n]."""
        lengths = torch.tensor([len(part) for part in rollout.sampled])  # [n]
        missing = self._config.missing_eos_penalty * (~rollout.ended).float()
        return missing + overlong_penalties(lengths, self._run)

    def calibrated(self, raw_scores: torch.Tensor) -> torch.Tensor:
        """Scores [n] whose mean on demonstrations is 0, in their standard deviations."""
        return (raw_scores - self._mean) / self._std

    def state(self) -> dict[str, Any]:
        """For the saved state."""
        return {"kl_coefficient": self.kl.coefficient, "scale": self.scale.state()}

    def load(self, state: dict[str, Any]) -> None:
        """From a saved state."""
        self.kl.coefficient = state["kl_coefficient"]
        self.scale.load(state["scale"])
