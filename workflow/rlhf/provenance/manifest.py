"""Manifests: the small file that says an artifact exists, what it is and what made it.

``manifest.json`` holds only what is the same each time the same work is done, so equal work gives
equal bytes. What varies (times, hosts, attempts) goes to ``run.json`` beside it.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf.core.digest import describe_tree, digest_file, digest_value
from rlhf.core.files import read_json, write_json
from rlhf.errors import IntegrityError

SCHEMA = 1
MANIFEST = "manifest.json"
RUN = "run.json"


@dataclass
class Manifest:
    """What made an artifact, and what it is.

    Attributes:
        stage: name of the stage, such as ``train_sft``.
        name: name that the user gave to the artifact.
        config: the stage's own slice of the configuration.
        code: digest of the code closure of the stage.
        image: identity of the container image, or ``""`` when bare.
        parents: role → digest of the parent's manifest file.
        files: path relative to the manifest's folder → size and sha256.
        counts: rows, tokens, truncated, dropped and the like.
        metrics: the few figures that sum the stage up.
        facts: anything else that downstream stages check (tokenizer digest, seeds, threads).
    """

    stage: str
    name: str
    config: dict[str, Any]
    code: str
    image: str
    parents: dict[str, str]
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def tree(self) -> str:
        """Digest of all output files together."""
        return digest_value(self.files)

    def write(
        self,
        folder: str | Path,
        outputs: list[Path],
        started: float,
        guard: Callable[[], None] = lambda: None,
    ) -> None:
        """Digest ``outputs`` (files or folders below ``folder``), then write both files.

        Args:
            folder: the artifact's folder.
            outputs: what the stage made.
            started: ``time.time()`` at the start of the stage.
            guard: called when all is digested; what it raises stops the writing.
        """
        folder = Path(folder)
        for path in outputs:
            prefix = path.relative_to(folder).as_posix()
            if path.is_dir():
                self.files |= {f"{prefix}/{k}": v for k, v in describe_tree(path).items()}
            else:
                self.files[prefix] = {"size": path.stat().st_size, "sha256": digest_file(path)}
        run = {
            "started": started,
            "seconds": time.time() - started,
            "host": platform.node(),
            "pid": os.getpid(),
            "python": platform.python_version(),
            "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        }
        guard()
        write_json(folder / RUN, run)
        write_json(folder / MANIFEST, self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """The manifest's content, ready for JSON."""
        return {
            "schema": SCHEMA,
            "stage": self.stage,
            "name": self.name,
            "config": self.config,
            "config_digest": digest_value(self.config),
            "code": self.code,
            "image": self.image,
            "parents": self.parents,
            "files": self.files,
            "tree": self.tree,
            "counts": self.counts,
            "metrics": self.metrics,
            "facts": self.facts,
        }


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Read ``manifest.json`` (or the one in the folder ``path``).

    Raises:
        IntegrityError: the file is absent, damaged, or of another schema version.
    """
    path = Path(path)
    path = path / MANIFEST if path.is_dir() else path
    try:
        manifest = read_json(path)
    except FileNotFoundError:
        raise IntegrityError(
            "There is no manifest, so the artifact does not exist.",
            where=path,
            hint="run snakemake: it builds what is missing",
        ) from None
    except ValueError as error:
        raise IntegrityError(
            f"The manifest is damaged: {error}",
            where=path,
            hint="delete this file and run snakemake again",
        ) from None
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise IntegrityError(
            "The manifest is of another schema version.",
            where=path,
            expected=f"schema {SCHEMA}",
            hint="delete this file and run snakemake again",
        )
    return manifest


def verify(path: str | Path) -> list[str]:
    """Compare an artifact's files with its manifest.

    Returns:
        One line for each file that is missing, resized or changed; empty when all is well.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    problems = []
    for name, known in read_manifest(path)["files"].items():
        file = folder / name
        if not file.is_file():
            problems.append(f"{file}: missing")
        elif file.stat().st_size != known["size"]:
            problems.append(f"{file}: {file.stat().st_size} bytes, manifest says {known['size']}")
        elif digest_file(file) != known["sha256"]:
            problems.append(f"{file}: content differs from the manifest (sha256)")
    return problems
