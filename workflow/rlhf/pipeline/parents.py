"""What artifacts are made from: manifests of the parents of each, by the configuration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from rlhf import paths
from rlhf.catalog import ONLINE, RUNS, SCORING, SECTIONS, STORES
from rlhf.config.base import named
from rlhf.config.cluster import served_models
from rlhf.config.schema import Config
from rlhf.pipeline.following import SETS, TRAIN, following, rows_needed
from rlhf.provenance.manifest import MANIFEST

# Sections that a report is about, its evaluations first.
REPORTED = tuple(section for section, row in reversed(RUNS.items()) if row.start)


def _manifests(folders: Iterable[Path]) -> list[str]:
    """Manifests of artifacts, each once."""
    return list(dict.fromkeys(str(folder / MANIFEST) for folder in folders))


def manifest(section: str, name: str) -> str:
    """Manifest of what comes of an entry of the configuration, such as ``sft.chat``."""
    return str(paths.artifact(section, name) / MANIFEST)


def start(config: Config, section: str, name: str) -> str:
    """The base model or run that a run starts from."""
    return manifest(*config.start(section, name))


def started(config: Config, section: str, name: str, other: str) -> list[str]:
    """What a run starts from, if it is of the other section; else nothing."""
    return [start(config, section, name)] if config.start(section, name)[0] == other else []


def base(config: Config, section: str, name: str) -> str:
    """The base model that a run goes back to."""
    return manifest("models", config.base_model(section, name))


def parent(config: Config, section: str, name: str, key: str) -> list[str]:
    """What a run names under a key, or else what the run that it starts from names there.

    Several, if an on-policy run names several reward models; nothing if neither names one, nor
    what that starts from: ORPO may start from a base model.
    """
    return [manifest(*found) for found in config.parents(section, name, key)]


def own_parent(config: Config, section: str, name: str, key: str) -> list[str]:
    """What a run itself names under a key, if it names anything there."""
    names = named(getattr(config, section)[name], key)
    return [manifest(SECTIONS[section].parents[key], one) for one in names]


def bases(config: Config, section: str, name: str) -> list[str]:
    """What the models that a run reads stand on, where adapters were published alone."""
    keys = dict.fromkeys(key for row in ONLINE.values() for key in row.servers.values())
    keys |= dict.fromkeys(SCORING)
    found = [config.parents(section, name, key) for key in keys]  # what scores, or is compared with
    read = [config.start(section, name), *chain.from_iterable(found)]
    return _manifests(paths.artifact(*base) for one in read for base in _beneath(config, *one))


def _beneath(config: Config, section: str, name: str) -> Iterator[tuple[str, str]]:
    """The base of an artifact that is an adapter alone, and the base's; else nothing."""
    run = getattr(config, section)[name]
    while adapter := getattr(run, "adapter", None):
        if not adapter.alone:
            return
        section, name = config.start(section, name)
        yield section, name
        run = getattr(config, section)[name]


def tokenized(config: Config, section: str, name: str, role: str = TRAIN) -> list[str]:
    """The tokenized sets that a run trains on, or needs held-out rows of.

    Args:
        config: the whole configuration.
        section: the run's section.
        name: its name there.
        role: ``train``, or a role of the stage's held-out rows, such as ``demonstrations``.
    """
    row = SECTIONS[section]
    view = row.view if role == TRAIN else row.held_out[role]
    model = config.base_model(section, name)
    datasets = config.drawn_from(section, name)
    return _manifests(paths.tokenized(str(view), model, dataset) for dataset in datasets)


def mixed(config: Config, section: str, name: str) -> list[str]:
    """The tokenized demonstrations that a run learns from beside its prompts; most have none."""
    ptx = getattr(getattr(config, section)[name], "ptx", None)
    model = config.base_model(section, name)
    datasets = ptx.data if ptx else ()
    return _manifests(paths.tokenized("conversation", model, dataset) for dataset in datasets)


def rows(config: Config, section: str, name: str) -> list[str]:
    """The datasets that a run draws from, or the run that it evaluates."""
    return _manifests(paths.dataset(one) for one in config.drawn_from(section, name))


def duplicates(config: Config, section: str, name: str) -> list[str]:
    """The list of rows that a run leaves out; none when it keeps them all."""
    if not SECTIONS[section].view or getattr(config, section)[name].duplicates.remove == "none":
        return []
    return _manifests([paths.duplicates(f"{section}.{name}")])


def stores(config: Config, section: str, name: str) -> list[str]:
    """The model stores that serve a run; none when it scores in-process."""
    return _manifests(
        paths.store(*model) for model in served_models(config, section, name).values()
    )


def stored(kind: str, name: str) -> str:
    """The model that a store serves."""
    return manifest(STORES[kind], name)


def stored_bases(config: Config, kind: str, name: str) -> list[str]:
    """What that model stands on, where it is an adapter alone."""
    return _manifests(paths.artifact(*one) for one in _beneath(config, STORES[kind], name))


def sets_to_check(config: Config, section: str, name: str) -> list[str]:
    """The tokenized sets that a run and those that build on it need rows of."""
    found = []
    for needs in rows_needed(config, section, name).values():
        for key in SETS:
            if key in needs:
                view, model = needs[key].split("/")
                found += [paths.tokenized(view, model, dataset) for dataset in needs["data"]]
    return _manifests(found)


def duplicates_to_check(config: Config, section: str, name: str) -> list[str]:
    """The lists of rows that a run and those that build on it leave out."""
    return [one for run in following(config, section, name) for one in duplicates(config, *run)]


def reported(config: Config, name: str, section: str) -> list[str]:
    """The runs of a section that a report is about: its evaluations, and what these go back to.

    Args:
        config: the whole configuration.
        name: the report.
        section: such as ``evaluation``, ``ppo`` or ``sft``.
    """
    found: list[Path] = []
    for evaluation in config.report[name].evaluations:
        policy = config.start("evaluation", evaluation)
        runs = [("evaluation", evaluation), policy]
        for own, run in (policy, runs[0]):
            entry = getattr(config, own)[run]
            for key, target in SECTIONS[own].parents.items():
                runs += [(target, named_run) for named_run in named(entry, key)]
        found += [paths.artifact(*run) for run in runs if run[0] == section]
    return _manifests(found)


def targets(config: Config) -> list[str]:
    """Every run that the configuration names, and so all that they need."""
    return [manifest(section, name) for section in RUNS for name in getattr(config, section)]
