"""The runs that build on a run, and the rows that all of them need.

Whether there are enough rows is known long before the last of these runs begins: it is looked at
before the first one trains.
"""

from __future__ import annotations

from typing import Any

from rlhf.config.schema import Config

SECTIONS = ("sft", "reward", "ppo", "evaluation")
SETS = ("train", "demonstrations", "prompts")  # keys of a run's needs that name a tokenized set


def following(config: Config, section: str, name: str) -> list[tuple[str, str]]:
    """Section and name of a run and of all that build on it, itself first."""
    found = [(section, name)]
    for parent, own in found:  # grows while it is read
        for other in SECTIONS:
            found += [
                (other, run)
                for run, entry in getattr(config, other).items()
                if getattr(entry, parent, None) == own and (other, run) not in found
            ]
    return found


def rows_needed(config: Config, section: str, name: str) -> dict[str, dict[str, Any]]:
    """What a run and those that follow it need, by run.

    Each has ``data``, its datasets, and some of ``train`` (the set that it trains on),
    ``demonstrations`` and ``prompts`` (sets that it needs held-out rows of); sets are named
    ``view/model``.
    """
    return {
        f"{kind}.{run}": _needs(config, kind, run) for kind, run in following(config, section, name)
    }


def _needs(config: Config, section: str, name: str) -> dict[str, Any]:
    run = getattr(config, section)[name]
    if section == "evaluation":
        ppo = config.ppo[run.ppo]
        return {"data": sorted(ppo.data), "prompts": f"prompt/{config.base_model('ppo', run.ppo)}"}
    view = {"sft": "sft", "reward": "preference", "ppo": "prompt"}[section]
    model = config.base_model(section, name)
    needs: dict[str, Any] = {"data": sorted(run.data), "train": f"{view}/{model}"}
    if section == "reward":
        needs |= {
            "demonstrations": f"sft/{model}",
            "calibration_samples": run.calibration_samples,
        }
    return needs
