"""Runs with several seeds: each stands for runs of their own, one a seed.

``ppo.final`` with seeds 0 and 1 is read as ``ppo.final-seed0`` and ``ppo.final-seed1``: plain runs
to all that comes after. What names such a run is given one of these for each of its own seeds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rlhf.catalog import SECTIONS
from rlhf.config.base import named
from rlhf.config.reward_terms import RewardTermConfig

Run = tuple[str, str]  # section and name, as the user wrote it
Sections = Mapping[str, Mapping[str, Any]]


def run_name(name: str, seed: int) -> str:
    """Name of a run's run for one of its seeds."""
    return f"{name}-seed{seed}"


def seeds_of(sections: Sections) -> dict[Run, tuple[int, ...]]:
    """The seeds of runs that have several; an evaluation has those of the run that it evaluates."""
    seeds: dict[Run, tuple[int, ...]] = {}
    for section, row in SECTIONS.items():
        for name, entry in sections[section].items():
            own = getattr(entry, "seeds", None)
            if own is None and not row.trains:
                given = ((row.parents[key], getattr(entry, key)) for key in row.start)
                own = next((seeds[run] for run in given if run in seeds), None)
            if own:
                seeds[section, name] = tuple(own)
    return seeds


def problems(sections: Sections, seeds: Mapping[Run, tuple[int, ...]]) -> Iterator[str]:
    """What is wrong with how runs with seeds are named and paired, each with its key first."""
    for (section, name), own in seeds.items():
        for seed in own:
            if (derived := run_name(name, seed)) in sections[section]:
                yield (
                    f"{section}.{derived}: {section}.{name} has the seed {seed}, so a run of its "
                    "own is called so; choose another name"
                )
    for section, row in SECTIONS.items():
        for name, entry in sections[section].items():
            own = seeds.get((section, name), ())
            for key, target in row.parents.items() if row.start else ():
                for parent in named(entry, key):
                    if theirs := seeds.get((target, parent)):
                        other = target, parent
                        yield from _badly_paired((section, name), own, key, other, theirs)
            if own and not row.trains:
                yield from _scored_by_several(sections, (section, name), seeds)


def _badly_paired(
    run: Run, own: tuple[int, ...], key: str, other: Run, theirs: tuple[int, ...]
) -> Iterator[str]:
    where, there = ".".join(run), ".".join(other)
    example = run_name(other[1], theirs[0])
    row = SECTIONS[run[0]]
    if not row.trains and key not in row.start:
        yield (
            f"{where}.{key}: {there} has seeds {[*theirs]}, but one reward model scores all "
            f"responses; name one of its runs, such as {example}"
        )
    elif not own:
        yield (
            f"{where}.{key}: {there} has seeds {[*theirs]}; give this run the same `seeds`, or "
            f"name one of its runs, such as {example}"
        )
    elif {*own} != {*theirs}:
        yield (
            f"{where}.seeds: seeds {[*own]} can't be paired with {[*theirs]} of {there}, which "
            f"`{key}` names; give both the same, or name one of its runs, such as {example}"
        )


def _scored_by_several(
    sections: Sections, run: Run, seeds: Mapping[Run, tuple[int, ...]]
) -> Iterator[str]:
    """An evaluation whose runs were each trained against a reward model of their own."""
    section, name = run
    row, entry = SECTIONS[section], sections[section][name]
    if entry.reward is not None:
        return
    for key in row.start:
        policy = sections[row.parents[key]].get(getattr(entry, key))
        for reward in named(policy, "reward") if hasattr(policy, "reward") else ():
            if theirs := seeds.get(("reward", reward)):
                yield (
                    f"{section}.{name}.reward: each seed of {row.parents[key]}."
                    f"{getattr(entry, key)} has a reward model of its own; name the one that "
                    f"scores them all, such as {run_name(reward, theirs[0])}"
                )


def expand(sections: Sections, seeds: Mapping[Run, tuple[int, ...]]) -> dict[str, dict[str, Any]]:
    """The sections with plain runs in place of those with several seeds."""
    return {
        section: dict(
            run for name, entry in runs.items() for run in _runs(section, name, entry, seeds)
        )
        for section, runs in sections.items()
    }


def _runs(
    section: str, name: str, entry: Any, seeds: Mapping[Run, tuple[int, ...]]
) -> Iterator[tuple[str, Any]]:
    """Name and entry of each run that an entry stands for."""
    row = SECTIONS[section]
    given = {key: value for key in row.parents if (value := getattr(entry, key))}
    if not row.start:  # a report is about all seeds
        update = {
            key: [
                run for one in named(entry, key) for run in _runs_of(seeds, row.parents[key], one)
            ]
            for key in given
        }
        changed = {key: value for key, value in update.items() if value != given[key]}
        yield name, entry.model_copy(update=changed) if changed else entry
        return
    if (section, name) not in seeds:
        yield name, entry
        return
    for seed in seeds[section, name]:
        own = {"seed": seed, "seeds": None} if row.trains else {}
        parents = {
            key: _renamed(value, [one for target, one in seeds if target == row.parents[key]], seed)
            for key, value in given.items()
        }
        yield run_name(name, seed), entry.model_copy(update=parents | own)


def _runs_of(seeds: Mapping[Run, tuple[int, ...]], section: str, name: str) -> list[str]:
    """Names of the runs that a name stands for."""
    own = seeds.get((section, name))
    return [name] if own is None else [run_name(name, seed) for seed in own]


def _renamed(value: Any, several: list[str], seed: int) -> Any:
    """What stands under a key, with the names of one seed's runs for those with several.

    Terms of a reward go by the same names in the metrics of all seeds.
    """
    if isinstance(value, str):
        return run_name(value, seed) if value in several else value
    if not isinstance(value, RewardTermConfig):
        terms = [_renamed(one, several, seed) for one in value]
        if len(terms) == 1:  # alone a term has no metrics of its own
            return [terms[0].model_copy(update={"name": value[0].name})]
        return terms
    models = [_renamed(one, several, seed) for one in value.models]
    if models == value.models:
        return value
    own = {"model": models[0]} if value.model else {"ensemble": models}
    return value.model_copy(update={**own, "name": value.label})


def as_written(lines: Iterable[str], seeds: Mapping[Run, tuple[int, ...]]) -> list[str]:
    """Problems with the names that the user wrote, each once: all seeds share a problem."""
    lines = list(lines)
    for (section, name), own in seeds.items():
        derived = "|".join(map(str, own))
        pattern = re.compile(
            rf"(?<![\w-]){re.escape(f'{section}.{name}-seed')}({derived})(?![\w-])"
        )
        lines = [pattern.sub(f"{section}.{name}", line) for line in lines]
    return list(dict.fromkeys(lines))
