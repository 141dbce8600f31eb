"""Evaluations of several seeds of one run, pooled: what ``evaluation.json`` says of one of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlhf.evaluation.statistics import mean_over_seeds

if TYPE_CHECKING:
    import pandas as pd

# Score → its keys in a comparison: share of wins, mean difference.
SCORES = {
    "reward": ("win_rate", "reward_difference"),
    "gold": ("gold_win_rate", "gold_difference"),
}


def pool(seeds: Sequence[pd.DataFrame]) -> dict[str, Any]:
    """Figures and comparisons over all seeds, in the form of ``summarize``.

    Means weigh seeds and prompts alike; their intervals are those of ``mean_over_seeds``. Whatever
    is compared is compared within a seed, response by response.

    Args:
        seeds: for each seed the table of ``write_scores``: the same models, prompts and numbers of
            samples in the same order.

    Raises:
        ValueError: the seeds differ in models, prompts or samples.
    """
    first, *others = seeds
    keys = ["model", "prompt", "dataset", "id"]
    for other in others:
        if not first[keys].equals(other[keys]):
            raise ValueError("the seeds were not evaluated on the same prompts")
    scores = [score for score in SCORES if all(score in seed for seed in seeds)]
    tables = [dict(iter(seed.groupby("model", sort=False))) for seed in seeds]
    names = list(tables[0])
    models = {name: _figures([table[name] for table in tables], scores) for name in names}
    comparisons = {
        f"{later}_vs_{earlier}": _compare(
            [table[later] for table in tables], [table[earlier] for table in tables], scores
        )
        for earlier, later in combinations(names, 2)
    }
    return {"models": models, "comparisons": comparisons}


def _figures(seeds: list[pd.DataFrame], scores: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        score: mean_over_seeds(_cells(seeds, [seed[score] for seed in seeds])).as_dict()
        for score in scores
    }
    means = {"kl": "kl", "length": "response_length", "ended": "eos_rate"}
    for column, key in (means | {"repetition": "repetition"}).items():
        found[key] = float(np.mean([seed[column].mean() for seed in seeds]))
    found["prompts"] = int(seeds[0]["prompt"].nunique())
    return found | {"samples": sum(map(len, seeds))}


def _compare(
    later: list[pd.DataFrame], earlier: list[pd.DataFrame], scores: list[str]
) -> dict[str, Any]:
    found = {}
    for score in scores:
        pairs = zip(later, earlier, strict=True)
        differences = [a[score].to_numpy() - b[score].to_numpy() for a, b in pairs]
        wins = [(np.sign(one) + 1) / 2 for one in differences]
        rate, difference = SCORES[score]
        # Shares of 1: the interval may not leave their range.
        share = mean_over_seeds(_cells(later, wins)).as_dict()
        found[rate] = {end: min(1.0, max(0.0, value)) for end, value in share.items()}
        found[difference] = mean_over_seeds(_cells(later, differences)).as_dict()
    return found


def _cells(seeds: list[pd.DataFrame], values: Sequence[Any]) -> NDArray[np.float64]:
    """Means [S, P] of a seed's values for each prompt."""
    pairs = zip(seeds, values, strict=True)
    return np.array([_by_prompt(np.asarray(own), seed["prompt"]) for seed, own in pairs])


def _by_prompt(values: NDArray[Any], prompts: pd.Series) -> NDArray[np.float64]:
    _, groups = np.unique(prompts.to_numpy(), return_inverse=True)
    return np.bincount(groups, weights=values) / np.bincount(groups)
