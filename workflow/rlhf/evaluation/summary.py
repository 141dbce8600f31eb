"""From the samples of several models to the content of ``evaluation.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rlhf.evaluation.statistics import bootstrap_mean, paired_difference, repetition, win_rate


@dataclass(frozen=True)
class ModelSamples:
    """What one model answered, sample by sample, over the same prompts as its rivals.

    Attributes:
        rewards: [n] calibrated rewards, in standard deviations of the scores of demonstrations.
        lengths: [n] response lengths in tokens.
        ended: [n] bool, whether the model ended the response itself.
        kl: [n] KL from the reference per response, in nats.
        token_ids: n lists of response token ids.
        groups: [n] prompt of each sample; samples of one prompt share it.
        gold: [n] calibrated rewards of a second reward model, or None.
    """

    rewards: ArrayLike
    lengths: ArrayLike
    ended: ArrayLike
    kl: ArrayLike
    token_ids: Sequence[Sequence[int]]
    groups: ArrayLike
    gold: ArrayLike | None = None


def summarize(per_model: dict[str, ModelSamples], seed: int) -> dict[str, Any]:
    """Content of ``evaluation.json``: each model's figures and every pair's comparison.

    All intervals use the same seed, so a model's figures do not depend on which rivals were there.

    Args:
        per_model: name → samples, from the earliest model to the latest (base, sft, ppo); pairs
            are named later against earlier (``ppo_vs_sft``).
        seed: seed of the bootstrap.

    Raises:
        ValueError: lengths within a model differ, or two models answered different prompts.
    """
    return {
        "models": {name: _figures(name, one, seed) for name, one in per_model.items()},
        "comparisons": {
            f"{later}_vs_{earlier}": _compare(per_model, later, earlier, seed)
            for earlier, later in combinations(per_model, 2)
        },
    }


def _figures(name: str, samples: ModelSamples, seed: int) -> dict[str, Any]:
    count = len(np.asarray(samples.rewards))
    for field in ("lengths", "ended", "kl", "token_ids", "groups"):
        found = len(getattr(samples, field))
        if found != count:
            raise ValueError(f"{name}: {count} rewards but {found} {field}")
    means = {"reward": samples.rewards} | ({} if samples.gold is None else {"gold": samples.gold})
    return {
        **{
            key: bootstrap_mean(values, seed, groups=samples.groups).as_dict()
            for key, values in means.items()
        },
        "kl": float(np.asarray(samples.kl).mean()),
        "response_length": float(np.asarray(samples.lengths).mean()),
        "eos_rate": float(np.asarray(samples.ended).mean()),
        "repetition": float(np.mean([repetition(ids) for ids in samples.token_ids])),
        "prompts": len(np.unique(np.asarray(samples.groups))),
        "samples": count,
    }


def _compare(
    per_model: dict[str, ModelSamples], later: str, earlier: str, seed: int
) -> dict[str, Any]:
    first, second = per_model[later], per_model[earlier]
    if not np.array_equal(np.asarray(first.groups), np.asarray(second.groups)):
        raise ValueError(f"{later} and {earlier} did not answer the same prompts in the same order")
    pair = (first.rewards, second.rewards, seed)
    compared = {
        "win_rate": win_rate(*pair, groups=first.groups).as_dict(),
        "reward_difference": paired_difference(*pair, groups=first.groups).as_dict(),
    }
    if first.gold is not None and second.gold is not None:
        pair = (first.gold, second.gold, seed)
        compared |= {
            "gold_win_rate": win_rate(*pair, groups=first.groups).as_dict(),
            "gold_difference": paired_difference(*pair, groups=first.groups).as_dict(),
        }
    return compared
