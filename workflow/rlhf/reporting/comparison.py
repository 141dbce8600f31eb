"""The methods of a report beside each other: what each cost, and what it gained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.catalog import EVALUATED
from rlhf.reporting.artifacts import Artifact
from rlhf.reporting.charts import Series
from rlhf.reporting.runs import Run
from rlhf.reporting.scatter import Point, distance

PLAIN = ("method", "run", "evaluation", "seeds", "tokens_sampled", "kl")
INTERVALS = ("reward", "win_rate", "gold", "gold_win_rate")
ENDS = {"": "mean", "_low": "low", "_high": "high"}
COLUMNS = (*PLAIN, *(key + suffix for key in INTERVALS for suffix in ENDS))


def compared(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row for each evaluation: what it evaluates, at what cost and distance, and its rewards.

    Keys are ``method`` (section), ``run``, ``evaluation``, ``seeds`` (their number),
    ``tokens_sampled`` (by one seed while it trained; the mean over the seeds), ``kl``, and, each
    with ``mean``, ``low`` and ``high``, ``reward``, ``win_rate`` against the SFT model, ``gold``
    and ``gold_win_rate``; None where there is none.

    Args:
        runs: evaluations, and the runs that they evaluate.
    """
    trained = {(run.role, one.name): run for run in runs for one in run.artifacts}
    rows = []
    for evaluation in runs:
        if evaluation.role != "evaluation" or not evaluation.policy:
            continue
        section, names = evaluation.policy
        models = evaluation.evaluation.get("models", {})
        against = evaluation.evaluation.get("comparisons", {}).get(f"{section}_vs_sft", {})
        figures = models.get(section, {})
        run = trained.get((section, names[0]))
        sampled = [tokens_sampled(one) for one in run.artifacts] if run else []
        rows.append(
            {
                "method": section,
                "run": run.name if run else names[0],
                "evaluation": evaluation.name,
                "seeds": len(names),
                "tokens_sampled": sum(sampled) / len(sampled) if sampled else None,
                "kl": figures.get("kl"),
                "reward": figures.get("reward"),
                "win_rate": against.get("win_rate"),
                "gold": figures.get("gold"),
                "gold_win_rate": against.get("gold_win_rate"),
            }
        )
    return rows


def tokens_sampled(artifact: Artifact) -> float:
    """Tokens of all responses that a run sampled while it trained; none without rollouts."""
    rollouts = (row for row in artifact.metrics if {"episodes", "response_length"} <= row.keys())
    return sum(row["episodes"] * row["response_length"] for row in rollouts)


def flat(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of ``compared`` by ``COLUMNS``, with a column for each end of an interval."""
    return [
        {key: row[key] for key in PLAIN}
        | {
            key + suffix: (row[key] or {}).get(end)
            for key in INTERVALS
            for suffix, end in ENDS.items()
        }
        for row in rows
    ]


def points(runs: Sequence[Run]) -> list[Point]:
    """Each evaluated policy, every seed by itself, beside the SFT model that it started from."""
    found = []
    methods: list[str] = []
    for evaluation in runs:
        if evaluation.role != "evaluation" or not evaluation.policy:
            continue
        section, names = evaluation.policy
        for artifact, name in zip(evaluation.artifacts, names, strict=True):
            figures = artifact.evaluation.get("models", {}).get(section, {})
            against = artifact.evaluation.get("comparisons", {}).get(f"{section}_vs_sft", {})
            if "kl" not in figures or "reward_difference" not in against:
                continue
            methods += [] if section in methods else [section]
            gold = against.get("gold_difference")
            found.append(
                Point(
                    f"{EVALUATED[section].label} {name}",
                    section,
                    methods.index(section),
                    figures["kl"],
                    against["reward_difference"]["mean"],
                    gold["mean"] if gold else None,
                )
            )
    return found


def paths(runs: Sequence[Run], hues: Mapping[str, int]) -> list[Series]:
    """Reward against √KL over the updates of on-policy runs, every seed by itself.

    Args:
        runs: any runs.
        hues: section → index of its colour; others are left out.
    """
    found = []
    for run in runs:
        for artifact in run.artifacts if run.role in hues else ():
            updates = [row for row in artifact.metrics if {"kl", "reward"} <= row.keys()]
            if updates:
                found.append(
                    Series(
                        f"{EVALUATED[run.role].label} {artifact.name}",
                        [distance(row["kl"]) for row in updates],
                        [row["reward"] for row in updates],
                        hue=hues[run.role],
                    )
                )
    return found
