"""Scores and reference log probabilities of a rollout, where they come from."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch

from rlhf.online.reference import Reference
from rlhf.online.rollout import Rollout
from rlhf.online.terms import Answer, RewardSum, Scores


class Scoring:
    """Asks servers in threads, so that this process computes old log probabilities meanwhile.

    Args:
        reward: scores responses, by sources of which some may be servers.
        reference: what the KL penalty holds the policy to.
    """

    def __init__(self, reward: RewardSum, reference: Reference) -> None:
        self.reward, self.reference = reward, reference
        self._remote = [source for source in reward.sources if source.remote]
        self._pool = ThreadPoolExecutor(1 + max(1, len(self._remote)))
        self._answers: dict[int, Future[Answer]] = {}
        self._logprobs: Future[list[torch.Tensor]] | None = None

    def begin(self, rollout: Rollout) -> None:
        """Ask the servers, if there are any.

        Args:
            rollout: the responses; it need not have log probabilities yet.
        """
        asked = self.reward.asked(rollout)
        for source in self._remote:
            self._answers[id(source)] = self._pool.submit(source, asked)
        if self.reference.remote:
            self._logprobs = self._pool.submit(self.reference.logprobs, rollout)

    def finish(self, rollout: Rollout) -> tuple[Scores, list[torch.Tensor]]:
        """Scores and log π_ref n × [L_i].

        Args:
            rollout: the one that ``begin`` was given, with its log probabilities.

        Raises:
            RlhfError: what a server's client or a function raised.
        """
        asked = self.reward.asked(rollout)
        local = {id(source): source(asked) for source in self.reward.sources if not source.remote}
        logprobs = None if self._logprobs else self.reference.logprobs(rollout)
        answers = local | {source: answer.result() for source, answer in self._answers.items()}
        if self._logprobs:
            logprobs = self._logprobs.result()
        self._answers, self._logprobs = {}, None
        assert logprobs is not None
        ordered = [answers[id(source)] for source in self.reward.sources]
        return self.reward.add_up(rollout, ordered), logprobs
