"""The unit of rewards: how a reward model's scores of demonstrations are spread."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from rlhf.data.labels import IGNORED
from rlhf.errors import NumericsError
from rlhf.models.roots import ReplyScorer
from rlhf.models.scoring import score
from rlhf.training import distributed, finite

# Scores that differ by less than this share of the largest are equal but for rounding.
RESOLUTION = {torch.bfloat16: 2.0**-8, torch.float32: 2.0**-20, torch.float64: 2.0**-20}


@torch.no_grad()
def calibrate(
    scorer: ReplyScorer, demonstrations: Iterable[dict[str, Any]], max_tokens: int
) -> tuple[float, float]:
    """Mean and standard deviation of the raw scores on SFT demonstrations (arXiv 2403.17031).

    Raises:
        NumericsError: a score is not finite, or the scores differ by no more than rounding does.
    """
    rows = list(demonstrations)
    sequences = [torch.tensor(_to_last_label(row)) for row in rows]
    scores = score(scorer, sequences, max_tokens).double()
    where = "calibration on held-out demonstrations"
    share = slice(distributed.rank(), None, distributed.world_size())  # every rank has all
    finite.check_rows(
        {"reward model's scores": scores[share]}, rows[share], where, finite.START_ADVICE
    )
    mean, std, largest = float(scores.mean()), float(scores.std()), float(scores.abs().max())
    if std <= RESOLUTION[scorer.product_dtype] * largest:
        raise NumericsError(
            f"The reward model gives {len(rows)} held-out demonstrations the same score: mean"
            f" {mean:g}, standard deviation {std:g}. Rewards are divided by the latter.",
            where=where,
            expected="scores that differ by more than rounding",
            hint="the reward model has learned nothing that tells demonstrations apart: look at its"
            " validation accuracy, train longer or with a lower `optimizer.learning_rate`, or set"
            " `precision: float32`",
        )
    return mean, std


def _to_last_label(row: dict[str, Any]) -> list[int]:
    """A demonstration up to its final EOS: templates may write a line break after it."""
    last = max(i for i, label in enumerate(row["labels"]) if label != IGNORED)
    ids: list[int] = row["input_ids"]
    return ids[: last + 1]
