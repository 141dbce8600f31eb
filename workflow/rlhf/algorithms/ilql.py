"""Implicit language Q-learning: values of tokens are learned from rewarded replies, offline.

Snell et al. 2022 (arXiv 2206.11871), by trlX's formulas. A reply is a path of states (what
stands before a token) and actions (the token); its reward comes with the last token.
Each update:

1. log π, V and Q of every token of a reply and its EOS, and the target of Q: ``models.ilql``.
2. Q learns reward + γ·V of the next state: ``q_loss``.
3. V learns an expectile of the target over the tokens of the data: ``value_loss``. So Q looks at
   the best of what is in the data, and at nothing besides.
4. Q of tokens that are not in the data is kept low: ``cql_loss``.
5. The policy goes on learning the data, by advantage if asked to: ``policy_loss``.
6. Means over the tokens of the global batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from rlhf.algorithms import pairs
from rlhf.config.ilql import IlqlConfig
from rlhf.errors import DataError
from rlhf.training.engine.protocol import Forward
from rlhf.training.sums import Measures

Rows = list[dict[str, Any]]


class IlqlObjective:
    """The losses of policy and values on all replies of a row.

    Args:
        config: the run's configuration.
        shares: whether replies to one history share a pass over it, as the model says.
        scale: mean and standard deviation of the replies' own scores (``score_scale``), where
            these are the rewards.
    """

    def __init__(
        self, config: IlqlConfig, shares: bool, scale: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        self._config, self._shares, self._scale = config, shares, scale

    def shape(self, row: dict[str, Any]) -> tuple[int, int]:
        """See ``pairs.shape``."""
        return pairs.shape(row, self._shares)

    def weight(self, row: dict[str, Any]) -> float:
        """Every token of a reply counts the same."""
        return float(sum(map(len, row["reply_ids"])))

    def __call__(self, scorer: Forward, rows: Rows) -> tuple[torch.Tensor, Measures]:
        """Sums over the tokens of the replies of loss and measures.

        Args:
            scorer: an ``Ilql``, or an engine around one.
            rows: of the preference view.
        """
        config = self._config
        replies = [(row["history_ids"], reply) for row in rows for reply in row["reply_ids"]]
        sequences = [torch.tensor(history + reply) for history, reply in replies]
        starts, lengths = zip(*((len(h), len(reply)) for h, reply in replies), strict=True)
        logprobs, values, q, q_logs, targets = scorer(sequences, list(starts))
        rewards = [reward for row in rows for reward in self.rewards(row)]
        backups = backed_up(values.detach(), rewards, lengths, config.gamma)
        advantages = targets - values.detach()
        losses = {
            "q_loss": q_loss(q, backups),
            "value_loss": value_loss(values, targets, config.tau),
            "cql_loss": cql_loss(q_logs),
            "policy_loss": policy_loss(logprobs, advantages, config.awac_beta),
        }
        loss = (
            losses["q_loss"]
            + losses["value_loss"]
            + config.cql_scale * losses["cql_loss"]
            + config.awac_scale * losses["policy_loss"]
        )
        sums = {name: each.detach() for name, each in losses.items()}
        sums |= {"value": values.detach().sum(), "advantage": advantages.sum()}
        return loss, sums | self._agreement(rows, targets, lengths)

    def rewards(self, row: dict[str, Any]) -> list[float]:
        """The reward of each reply of a row, best first."""
        if self._config.rewards == "rank":
            return rank_rewards(len(row["reply_ids"]))
        mean, std = self._scale
        return [(score - mean) / std for score in row["scores"]]

    def _agreement(
        self, rows: Rows, targets: torch.Tensor, lengths: Sequence[int]
    ) -> dict[str, torch.Tensor]:
        """Whether Q at the last token, where the reward is, orders a row's replies.

        A row counts as many times as its replies have tokens, like all else.
        """
        ends = torch.tensor(lengths, device=targets.device).cumsum(0) - 1
        by_row = targets[ends].split([len(row["reply_ids"]) for row in rows])
        known = [(self.weight(row), own) for row, own in zip(rows, by_row, strict=True)]
        return {
            "accuracy": torch.stack([w * pairs.accuracy(own) for w, own in known]).sum(),
            "kendall_tau": torch.stack([w * pairs.kendall_tau(own) for w, own in known]).sum(),
        }


def rank_rewards(replies: int) -> list[float]:
    """Rewards of ranked replies, best first: from 1 to −1 in even steps; ±1 of a pair."""
    return [1 - 2 * rank / (replies - 1) for rank in range(replies)]


def score_scale(run: str, rows: Iterable[dict[str, Any]]) -> tuple[float, float]:
    """Mean and standard deviation of the replies' own scores.

    Args:
        run: section and name, such as ``ilql.final``.
        rows: of the preference view.

    Raises:
        DataError: a row has no scores, or all are alike.
    """
    scores: list[float] = []
    for row in rows:
        if not row.get("scores"):
            raise DataError(
                f"The replies of {row.get('dataset', 'a dataset')} have no scores of their own.",
                where=f"{run}.rewards: scores, row {row['id']}",
                expected="a score of each reply",
                hint="write rewards: rank, or choose datasets whose replies have scores",
            )
        scores += row["scores"]
    found = torch.tensor(scores, dtype=torch.float64)
    std = float(found.std()) if len(set(scores)) > 1 else 0.0
    if not std:
        raise DataError(
            "All replies have the same score, so none is better than another.",
            where=f"{run}.rewards: scores",
            expected="scores that differ",
            hint="write rewards: rank, or choose other datasets",
        )
    return float(found.mean()), std


def backed_up(
    values: torch.Tensor, rewards: Sequence[float], lengths: Sequence[int], gamma: float
) -> torch.Tensor:
    """What Q learns for each token [N]: its reward + γ·V of the state that follows.

    After the last token of a reply comes nothing, and there alone is a reward.

    Args:
        values: V [N] of the states before the tokens, reply by reply.
        rewards: of each reply.
        lengths: tokens of each reply, which add up to N.
        gamma: γ.
    """
    ends = torch.tensor(lengths).cumsum(0) - 1
    following = gamma * values.roll(-1)
    following[ends.to(values.device)] = torch.tensor(rewards).to(values)
    return following


def q_loss(q: torch.Tensor, backups: torch.Tensor) -> torch.Tensor:
    """Sum over tokens of (Q − r − γ·V′)², for each Q of [n, N]."""
    return ((q - backups) ** 2).sum()


def value_loss(values: torch.Tensor, targets: torch.Tensor, tau: float) -> torch.Tensor:
    """Sum over tokens of |τ − 1(u < 0)|·u², u = target of Q − V.

    The V [N] of least loss is the τ-expectile of the targets [N] (IQL: Kostrikov
    et al. 2021, arXiv 2110.06169).
    """
    over = targets - values
    return ((tau - (over < 0).to(over)).abs() * over**2).sum()


def cql_loss(q_logs: torch.Tensor) -> torch.Tensor:
    """Sum over tokens of log Σ exp Q − Q of the token (CQL: Kumar et al. 2020,
    arXiv 2006.04779).

    Args:
        q_logs: log softmax of each Q over the vocabulary, at the tokens [n, N].
    """
    return -q_logs.sum()


def policy_loss(logprobs: torch.Tensor, advantages: torch.Tensor, beta: float) -> torch.Tensor:
    """Sum over tokens of −exp(β·A)·log π (AWAC: Nair et al. 2020, arXiv 2006.09359).

    Args:
        logprobs: log π [N].
        advantages: A [N], without a gradient.
        beta: β; 0: cross-entropy.
    """
    return -((beta * advantages).exp() * logprobs).sum()
