"""Scores and reference log probabilities of a rollout, where they come from."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch

from rlhf.online.reference import Reference
from rlhf.online.rewards import Reward
from rlhf.online.rollout import Rollout


class Scoring:
    """Asks servers in threads, so that this process computes old log probabilities meanwhile.

    Args:
        reward: scores responses.
        reference: what the KL penalty holds the policy to.
    """

    def __init__(self, reward: Reward, reference: Reference) -> None:
        self.reward, self.reference = reward, reference
        self._pool = ThreadPoolExecutor(2)
        self._known: torch.Tensor | None = None
        self._scores: Future[torch.Tensor] | None = None
        self._logprobs: Future[list[torch.Tensor]] | None = None

    def begin(self, rollout: Rollout, scores: torch.Tensor | None = None) -> None:
        """Ask the servers, if there are any.

        Args:
            rollout: the responses; it need not have log probabilities yet.
            scores: [n], raw scores, where they are known already.
        """
        self._known = scores
        if self.reward.remote and scores is None:
            self._scores = self._pool.submit(self.reward, rollout)
        if self.reference.remote:
            self._logprobs = self._pool.submit(self.reference.logprobs, rollout)

    def finish(self, rollout: Rollout) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Raw scores [n] and log π_ref n × [L_i].

        Args:
            rollout: the one that ``begin`` was given, with its log probabilities.

        Raises:
            RlhfError: what a server's client raised.
        """
        scores = self._known
        if scores is None and not self._scores:
            scores = self.reward(rollout)
        logprobs = None if self._logprobs else self.reference.logprobs(rollout)
        if self._scores:
            scores = self._scores.result()
        if self._logprobs:
            logprobs = self._logprobs.result()
        self._known = self._scores = self._logprobs = None
        assert scores is not None
        assert logprobs is not None
        return scores, logprobs
