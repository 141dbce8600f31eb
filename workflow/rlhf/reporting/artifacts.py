"""Reads what the page is made of; what is not there is left out of the page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.core.files import read_json
from rlhf.errors import IntegrityError
from rlhf.provenance.manifest import read_manifest
from rlhf.reporting.charts import Series

METRICS = "metrics.jsonl"
EVALUATION = "evaluation.json"
SAMPLES = "samples.json"


@dataclass(frozen=True)
class Artifact:
    """One artifact that the report is about.

    Attributes:
        role: what it is to the report: ``sft``, ``reward``, ``ppo`` or ``evaluation``.
        name: name that the user gave to it.
        folder: where its files are.
        manifest: content of its manifest.
        metrics: lines of its ``metrics.jsonl``; empty without that file.
        evaluation: content of its ``evaluation.json``; empty without that file.
        samples: content of its ``samples.json``; empty without that file.
    """

    role: str
    name: str
    folder: Path
    manifest: dict[str, Any]
    metrics: list[dict[str, float]]
    evaluation: dict[str, Any]
    samples: list[dict[str, Any]]

    def series(self, key: str, label: str) -> Series:
        """All values of a metric over the steps."""
        rows = [row for row in self.metrics if key in row and "step" in row]
        return Series(label, [row["step"] for row in rows], [row[key] for row in rows])

    def last(self, key: str) -> float | None:
        """The last value of a metric, from its file or else from the manifest."""
        values = [row[key] for row in self.metrics if key in row]
        return values[-1] if values else self.manifest["metrics"].get(key)


def load_artifact(role: str, manifest: Path) -> Artifact:
    """Read an artifact's manifest and the report's files beside it.

    Raises:
        IntegrityError: the manifest is absent, or a file is damaged.
    """
    content = read_manifest(manifest)
    folder = manifest.parent
    return Artifact(
        role=role,
        name=content["name"],
        folder=folder,
        manifest=content,
        metrics=_read_lines(folder / METRICS),
        evaluation=_read(folder / EVALUATION, {}),
        samples=_read(folder / SAMPLES, []),
    )


def _read(path: Path, default: Any) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError:
        return default
    except ValueError as error:
        raise _damaged(path, error) from None


def _read_lines(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise _damaged(f"{path}:{number}", error) from None
    return rows


def _damaged(where: object, error: ValueError) -> IntegrityError:
    return IntegrityError(
        f"The file is not JSON: {error}",
        where=where,
        hint="delete the manifest beside it and run snakemake again",
    )
