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
        self._known: Scores | None = None
        self._answers: dict[int, Future[Answer]] = {}
        self._logprobs: Future[list[torch.Tensor]] | None = None

    def score(self, rollout: Rollout) -> Scores:
        """Scores alone, now.

        Raises:
            RlhfError: what a server's client or a function raised.
        """
        self._ask(rollout)
        return self._scores(rollout)

    def begin(self, rollout: Rollout, scores: Scores | None = None) -> None:
        """Ask the servers, if there are any.

        Args:
            rollout: the responses; it need not have log probabilities yet.
            scores: what the reward says of them, where that is known already.
        """
        self._known = scores
        if scores is None:
            self._ask(rollout)
        if self.reference.remote:
            self._logprobs = self._pool.submit(self.reference.logprobs, rollout)

    def finish(self, rollout: Rollout) -> tuple[Scores, list[torch.Tensor]]:
        """Scores and log π_ref n × [L_i].

        Args:
            rollout: the one that ``begin`` was given, with its log probabilities.

        Raises:
            RlhfError: what a server's client or a function raised.
        """
        logprobs = None if self._logprobs else self.reference.logprobs(rollout)
        scores = self._scores(rollout) if self._known is None else self._known
        if self._logprobs:
            logprobs = self._logprobs.result()
        self._known = self._logprobs = None
        assert logprobs is not None
        return scores, logprobs

    def _ask(self, rollout: Rollout) -> None:
        """Ask the servers."""
        asked = self.reward.asked(rollout)
        for source in self._remote:
            self._answers[id(source)] = self._pool.submit(source, asked)

    def _scores(self, rollout: Rollout) -> Scores:
        """The sum of what the servers answer and of what this process computes."""
        asked = self.reward.asked(rollout)
        local = {id(source): source(asked) for source in self.reward.sources if not source.remote}
        answers = local | {source: answer.result() for source, answer in self._answers.items()}
        self._answers = {}
        return self.reward.add_up(rollout, [answers[id(one)] for one in self.reward.sources])
