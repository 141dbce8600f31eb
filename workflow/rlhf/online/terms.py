"""A run's reward: the weighted sum of reward models, ensembles of them, and functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch

from rlhf.online.rewards import Reward, Source
from rlhf.online.rollout import Rollout

Combination = Literal["mean", "minimum", "uncertainty"]
Answer = torch.Tensor | list[torch.Tensor]


class Scores(NamedTuple):
    """What a reward says of responses.

    Attributes:
        raw: [n], one for each response; calibrated if there are several terms.
        tokens: n × [L_i], rewards of tokens; None: there are none.
        terms: name → [n], each term's own share of the reward, before its weight; empty if there
            is but one.
    """

    raw: torch.Tensor
    tokens: list[torch.Tensor] | None
    terms: Mapping[str, torch.Tensor]

    @property
    def of_tokens(self) -> torch.Tensor | None:
        """Sums [n] of the rewards of each response's tokens, or None."""
        if self.tokens is None:
            return None
        return torch.stack([rewards.sum() for rewards in self.tokens])

    def part(self, rows: slice) -> Scores:
        """What is said of some of the responses."""
        tokens = None if self.tokens is None else self.tokens[rows]
        return Scores(self.raw[rows], tokens, {name: self.terms[name][rows] for name in self.terms})

    @classmethod
    def joined(cls, parts: Sequence[Scores]) -> Scores:
        """What the same reward says of several parts, one after the other."""
        first, tokens = parts[0], [part.tokens for part in parts if part.tokens is not None]
        return cls(
            torch.cat([part.raw for part in parts]),
            [rewards for part in tokens for rewards in part] if tokens else None,
            {name: torch.cat([part.terms[name] for part in parts]) for name in first.terms},
        )


@dataclass(frozen=True, eq=False)
class Term:
    """One term of the sum.

    Attributes:
        name: what it is called in metrics.
        sources: what scores responses: one, or the members of an ensemble.
        calibrations: of each source, mean and std of its raw scores on demonstrations.
        weight: what its score is multiplied by.
        combine: how the members' calibrated scores become one.
        coefficient: weight of their variance with ``uncertainty``.
    """

    name: str
    sources: Sequence[Source]
    calibrations: Sequence[tuple[float, float]]
    weight: float = 1.0
    combine: Combination = "mean"
    coefficient: float = 0.0

    def score(self, answers: Sequence[torch.Tensor]) -> torch.Tensor:
        """Calibrated score [n], before the weight; the sources' answers are [n] each.

        Coste et al. 2023 (arXiv 2310.02743), section 3.2.
        """
        calibrated = [
            (raw - mean) / std for raw, (mean, std) in zip(answers, self.calibrations, strict=True)
        ]
        if len(calibrated) == 1:
            return calibrated[0]
        members = torch.stack(calibrated)  # [k, n]
        if self.combine == "minimum":
            return members.min(0).values
        mean = members.mean(0)
        if self.combine == "uncertainty":
            return mean - self.coefficient * members.var(0, correction=0)
        return mean


class RewardSum:
    """The reward of a run.

    Args:
        terms: what is added up; names differ.
        own_replies: subtract the score of the dataset's own reply to the prompt: so many of its
            tokens at most, as many as a response may have. None: don't.

    Attributes:
        sources: what has to be asked, each once.
        calibration: mean and std of the raw scores on demonstrations: those of a reward model that
            stands alone; 0 and 1 if raw scores are calibrated already.
    """

    def __init__(self, terms: Sequence[Term], own_replies: int | None = None) -> None:
        self._terms, self._own_replies = terms, own_replies
        every = [source for term in terms for source in term.sources]
        self.sources = list({id(source): source for source in every}.values())
        self._places = {id(source): i for i, source in enumerate(self.sources)}
        first, *others = terms
        self._alone = not others and len(first.sources) == 1 and first.weight == 1
        self.calibration = (0.0, 1.0)
        if self._alone:
            mean, std = first.calibrations[0]
            self.calibration = (mean if own_replies is None else 0.0, std)

    @classmethod
    def of(cls, reward: Reward, calibration: tuple[float, float]) -> RewardSum:
        """A reward model alone."""
        return cls([Term("reward", [reward], [calibration])])

    def asked(self, rollout: Rollout) -> Rollout:
        """What the sources are asked about: the responses, then the datasets' own replies."""
        if self._own_replies is None:
            return rollout
        return _with_own_replies(rollout, self._own_replies)

    def add_up(self, rollout: Rollout, answers: Sequence[Answer]) -> Scores:
        """Scores of a rollout.

        Args:
            rollout: the responses.
            answers: of each source, about ``asked(rollout)``.
        """
        shares: list[torch.Tensor] = []
        tokens: list[torch.Tensor] | None = None
        terms: dict[str, torch.Tensor] = {}
        for term in self._terms:
            own = [answers[self._places[id(source)]] for source in term.sources]
            if isinstance(own[0], list):
                rewards = [term.weight * each for each in own[0]]
                before = tokens or [torch.zeros_like(each) for each in rewards]
                tokens = [a + b for a, b in zip(before, rewards, strict=True)]
                terms[term.name] = torch.stack([each.sum() for each in own[0]])
                continue
            known = [answer for answer in own if isinstance(answer, torch.Tensor)]
            score = self._relative(rollout, known[0] if self._alone else term.score(known))
            terms[term.name] = score
            shares.append(term.weight * score)
        raw = sum(shares[1:], shares[0]) if shares else torch.zeros(len(rollout))
        return Scores(raw, tokens, terms if len(terms) > 1 else {})

    def _relative(self, rollout: Rollout, scores: torch.Tensor) -> torch.Tensor:
        """Scores [n] of responses, of which those [m] of own replies that follow are subtracted."""
        if self._own_replies is None:
            return scores
        n, groups = len(rollout), _groups(rollout)
        return scores[:n] - scores[n:][torch.tensor(groups)]


def _groups(rollout: Rollout) -> list[int]:
    """Which of the rollout's prompts each response is to, from 0."""
    groups: list[int] = []
    for i, example in enumerate(rollout.examples):
        new = i == 0 or example is not rollout.examples[i - 1]
        groups.append((groups[-1] if groups else -1) + new)
    return groups


def _with_own_replies(rollout: Rollout, longest: int) -> Rollout:
    """A rollout with one more response to each prompt: the dataset's own reply.

    Of a reply that is too long the beginning is left, as of a response that was cut off.
    """
    groups = _groups(rollout)
    firsts = [groups.index(group) for group in range(groups[-1] + 1)]
    examples = [rollout.examples[i] for i in firsts]
    whole = [torch.tensor(example["own_reply_ids"]) for example in examples]
    sequences = [
        torch.cat([rollout.sequences[i][: rollout.starts[i]], reply[:longest]])
        for i, reply in zip(firsts, whole, strict=True)
    ]
    ended = torch.tensor([len(reply) <= longest for reply in whole])
    return replace(
        rollout,
        examples=rollout.examples + examples,
        sequences=rollout.sequences + sequences,
        starts=rollout.starts + [rollout.starts[i] for i in firsts],
        ended=torch.cat([rollout.ended, ended]),
    )
