"""A trained reward model's scores of replies that are given as texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rlhf.data.encoding import Encoder
from rlhf.data.rows import Message
from rlhf.data.templates.chat import check_tokenizer, is_of_package
from rlhf.errors import DataError, NumericsError
from rlhf.models import inference
from rlhf.models.context import context_of
from rlhf.models.load import load_tokenizer
from rlhf.models.reward import CALIBRATION, load_calibration
from rlhf.models.scoring import score


@dataclass(frozen=True)
class Candidates:
    """A history, and replies to it.

    Attributes:
        row: where they are from, for messages.
        history: ends with the user.
        replies: one or more texts; best first, if that is known.
    """

    row: str
    history: tuple[Message, ...]
    replies: tuple[str, ...]


@dataclass(frozen=True)
class Scores:
    """Of the replies of some ``Candidates``, in their order.

    Attributes:
        raw: as the reward model gives them.
        rewards: calibrated: 0 is an average demonstration, 1 a standard deviation; None: the model
            has no calibration.
        tokens: length of each reply, with its EOS.
    """

    raw: list[float]
    rewards: list[float] | None
    tokens: list[int]


class TextScorer:
    """A reward model that scores texts, in its own template, on this process's device.

    Args:
        folder: the model's.
        max_tokens: padded tokens in one forward pass.

    Raises:
        ConfigError: it is no reward model, or its tokenizer can't be used.
        ClusterError: it does not fit this process's GPUs.
        IntegrityError: its calibration is unusable.
    """

    def __init__(self, folder: Path, max_tokens: int) -> None:
        tokenizer = load_tokenizer(folder)
        check_tokenizer(tokenizer, model=folder.name)
        self._encoder = Encoder(tokenizer, folder.name, not is_of_package(tokenizer))
        self._longest, self._max_tokens = context_of(folder).tokens, max_tokens
        known = (folder / CALIBRATION).is_file()
        self._calibration = load_calibration(folder) if known else None
        self._scorer = inference.reply_scorer(folder)

    @torch.no_grad()
    def __call__(self, some: Sequence[Candidates]) -> list[Scores]:
        """Score all replies; those to one history share a pass over it, others of like length too.

        Raises:
            DataError: a reply with its history is longer than the model takes, or the template does
                not write its texts as they are.
            NumericsError: a score is not finite.
        """
        encoder = self._encoder
        encoder.prime((*one.history, _said(text)) for one in some for text in one.replies)
        sequences: list[torch.Tensor] = []
        prompts: list[int] = []
        for one in some:
            history = encoder.prompt(one.history)
            for text in one.replies:
                encoder.check((*one.history, _said(text)), one.row)
                ids = [*history, *encoder.reply(one.history, text)]
                self._check_length(one, len(ids))
                sequences.append(torch.tensor(ids))
                prompts.append(len(history))
        if not sequences:
            return []
        scores = score(self._scorer, sequences, self._max_tokens, prompts).cpu()
        counts = [len(one.replies) for one in some]
        lengths = [len(ids) - start for ids, start in zip(sequences, prompts, strict=True)]
        tokens = torch.tensor(lengths).split(counts)
        parts = zip(some, scores.split(counts), tokens, strict=True)
        return [self._scores(*part) for part in parts]

    def _check_length(self, one: Candidates, tokens: int) -> None:
        if self._longest and tokens > self._longest:
            raise DataError(
                f"A reply has {tokens} tokens with its history, more than the model takes.",
                where=f"row {one.row}",
                expected=f"at most {self._longest} tokens",
                hint="shorten the row, or leave it out",
            )

    def _scores(self, one: Candidates, raw: torch.Tensor, tokens: torch.Tensor) -> Scores:
        if not raw.isfinite().all():
            raise NumericsError(
                f"The model's scores are {raw.tolist()}.",
                where=f"row {one.row}",
                expected="finite numbers",
                hint="`rlhf verify` says whether the model's weights are finite",
            )
        rewards = None
        if self._calibration is not None:
            mean, std = self._calibration
            rewards = ((raw - mean) / std).tolist()
        return Scores(raw.tolist(), rewards, tokens.tolist())


def _said(text: str) -> Message:
    return Message("assistant", text)
