"""Where artifacts, resume states and logs lie: no other module spells these folders.

Rules spell their own outputs, as patterns; a test holds the two together.
"""

from __future__ import annotations

from pathlib import Path

RESULTS, STATE, LOGS = Path("results"), Path("state"), Path("logs")


def artifact(section: str, name: str, results: Path = RESULTS) -> Path:
    """Folder of what comes of an entry of the configuration, such as ``sft.chat``.

    Args:
        section: the entry's section, such as ``models`` or ``ppo``.
        name: its name there.
        results: folder of all artifacts.
    """
    return results / section / name


def dataset(name: str, results: Path = RESULTS) -> Path:
    """Folder of a dataset's rows and statistics."""
    return results / "datasets" / name


def tokenized(view: str, model: str, name: str, results: Path = RESULTS) -> Path:
    """Folder of one view of a dataset, tokenized for a base model."""
    return results / "tokenized" / view / model / name


def duplicates(run: str, results: Path = RESULTS) -> Path:
    """Folder of the list of rows that a run, such as ``sft.chat``, leaves out."""
    return results / "duplicates" / run


def rows(run: str, results: Path = RESULTS) -> Path:
    """Folder of the counts of rows of a run, such as ``sft.chat``, and those that follow it."""
    return results / "rows" / run


def store(kind: str, name: str, results: Path = RESULTS) -> Path:
    """Folder of a Triton store: of a ``reward`` model or a ``reference``."""
    return results / "store" / kind / name


def state(rule: str, *wildcards: str) -> Path:
    """What one attempt at a job owns; where training keeps what it resumes from."""
    return STATE / rule / ".".join(wildcards)
