"""Runs as the configuration names them: an artifact for each of their seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.catalog import EVALUATED
from rlhf.errors import IntegrityError
from rlhf.evaluation.pooled import pool
from rlhf.evaluation.scores import read_scores
from rlhf.reporting.artifacts import Artifact, load_artifact
from rlhf.reporting.charts import Series

SCORES = "scores.parquet"
Seeds = Mapping[str, Mapping[str, int]]  # such as ``ppo.final`` → name of each run → its seed


@dataclass(frozen=True)
class Run:
    """One run, whatever number of seeds it has.

    Attributes:
        role: what it is to the report, such as ``ppo`` or ``evaluation``.
        name: name that the user gave to it.
        artifacts: one for each seed, in the order of the configuration.
        seeds: the seed of each; empty for a run that was not given ``seeds``.
        evaluation: content of ``evaluation.json``; of several seeds, what their responses say
            together.
    """

    role: str
    name: str
    artifacts: tuple[Artifact, ...]
    seeds: tuple[int, ...]
    evaluation: dict[str, Any]

    @property
    def several(self) -> bool:
        """Whether it has more than one seed."""
        return len(self.artifacts) > 1

    @property
    def labels(self) -> list[str]:
        """What tells its seeds apart."""
        return [f"seed {seed}" for seed in self.seeds] if self.seeds else [""]

    @property
    def policy(self) -> tuple[str, list[str]] | None:
        """Of an evaluation, section and names of what it evaluates."""
        configs = [artifact.manifest["config"] for artifact in self.artifacts]
        for section in EVALUATED:
            if names := [str(config[section]) for config in configs if config.get(section)]:
                return section, names
        return None

    def series(self, key: str, label: str) -> list[Series]:
        """All values of a metric over the steps, for each seed."""
        return [artifact.series(key, label) for artifact in self.artifacts]

    def last(self, key: str) -> float | None:
        """The last value of a metric; of several seeds, the mean of theirs."""
        values = [artifact.last(key) for artifact in self.artifacts]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None


def load_runs(inputs: Mapping[str, Sequence[Path]], seeds: Seeds) -> list[Run]:
    """The runs that a report is about, role by role.

    Args:
        inputs: role → manifests.
        seeds: which of them differ in their seed alone.

    Raises:
        IntegrityError: a manifest or a file beside it is damaged, or seeds of one run were
            evaluated on different prompts.
    """
    return [
        run
        for role, paths in inputs.items()
        for run in _grouped(role, [load_artifact(role, path) for path in paths], seeds)
    ]


def _grouped(role: str, artifacts: list[Artifact], seeds: Seeds) -> Iterator[Run]:
    groups: dict[str, list[Artifact]] = {}
    numbers: dict[str, list[int]] = {}
    for artifact in artifacts:
        name, seed = _as_written(role, artifact.name, seeds)
        groups.setdefault(name, []).append(artifact)
        numbers.setdefault(name, []).extend([] if seed is None else [seed])
    for name, own in groups.items():
        evaluation = own[0].evaluation if len(own) == 1 or role != "evaluation" else _pooled(own)
        yield Run(role, name, tuple(own), tuple(numbers[name]), evaluation)


def _as_written(role: str, name: str, seeds: Seeds) -> tuple[str, int | None]:
    """Name of a run in the configuration, and its seed if it is one of several."""
    for written, runs in seeds.items():
        section, _, own = written.partition(".")
        if section == role and name in runs:
            return own, runs[name]
    return name, None


def _pooled(artifacts: list[Artifact]) -> dict[str, Any]:
    try:
        return pool([read_scores(artifact.folder / SCORES) for artifact in artifacts])
    except ValueError as error:
        raise IntegrityError(
            f"Evaluations of several seeds don't belong together: {error}.",
            where=", ".join(str(artifact.folder) for artifact in artifacts),
            hint="delete their manifests and run snakemake again",
        ) from None
