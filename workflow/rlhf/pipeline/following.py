"""The runs that build on a run, and the rows that all of them need.

Whether there are enough rows is known long before the last of these runs begins: it is looked at
before the first one trains.
"""

from __future__ import annotations

from typing import Any

from rlhf.catalog import RUNS, SECTIONS
from rlhf.config.base import named
from rlhf.config.schema import Config

TRAIN = "train"
# Keys of a run's needs that name a tokenized set.
SETS = (TRAIN, *dict.fromkeys(role for row in RUNS.values() for role in row.held_out))


def following(config: Config, section: str, name: str) -> list[tuple[str, str]]:
    """Section and name of a run and of all that build on it, itself first."""
    found = [(section, name)]
    for parent, own in found:  # grows while it is read
        for other, row in RUNS.items():
            keys = [key for key, target in row.parents.items() if row.start and target == parent]
            found += [
                (other, run)
                for run, entry in getattr(config, other).items()
                if any(own in named(entry, key) for key in keys) and (other, run) not in found
            ]
    return found


def rows_needed(config: Config, section: str, name: str) -> dict[str, dict[str, Any]]:
    """What a run and those that follow it need, by run.

    Each has ``data``, its datasets, and some of ``train`` (the set that it trains on),
    ``demonstrations`` and ``prompts`` (sets of which it needs held-out rows); sets are named
    ``view/model``. ``scores``: the key for which replies need scores of their own.
    """
    found = {}
    for kind, run in following(config, section, name):
        found[f"{kind}.{run}"] = _needs(config, kind, run)
        ptx = getattr(getattr(config, kind)[run], "ptx", None)
        if ptx:
            model = config.base_model(kind, run)
            own = {"data": sorted(ptx.data), TRAIN: f"conversation/{model}"}
            found[f"{kind}.{run}.ptx"] = own
    return found


def _needs(config: Config, section: str, name: str) -> dict[str, Any]:
    row, run = SECTIONS[section], getattr(config, section)[name]
    model = config.base_model(section, name)
    sets = {TRAIN: row.view} if row.view else {}
    needs: dict[str, Any] = {"data": sorted(config.drawn_from(section, name))}
    needs |= {role: f"{view}/{model}" for role, view in (sets | dict(row.held_out)).items()}
    if section == "reward" and run.loss.scores_for:
        needs["scores"] = run.loss.scores_for
    if "demonstrations" in row.held_out:
        needs["calibration_samples"] = run.calibration_samples
    return needs
