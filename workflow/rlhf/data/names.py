"""What the name of a dataset's file says: its kind, its split, or that it holds no rows."""

from __future__ import annotations

import re
from pathlib import PurePath

# Kinds by the end of a file's name; another name is read as JSON lines or a JSON list.
KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt")
PACKINGS = (".gz", ".zst", ".xz", ".bz2")
TRAIN, EVALUATION = "train", "evaluation"
# Words that the hub's conventions know a split by.
SPLITS = {"train": TRAIN, "training": TRAIN} | dict.fromkeys(
    ("test", "testing", "validation", "valid", "val", "dev", "eval", "evaluation"), EVALUATION
)
_BREAKS = re.compile(r"[-._ 0-9]+")
# Files that stand beside a dataset's rows in its repository.
_ABOUT = re.compile(
    r"(readme|licen[cs]e|copying|notice|changelog|citation|authors|requirements)"
    r"([-_ ][^.]*)?(\.(txt|rst|cff))?"
    r"|(dataset_infos?|dataset_dict|state|croissant)\.json|.*\.md|cache-[0-9a-f]+\.arrow",
    re.IGNORECASE,
)


def kind_of(path: PurePath) -> str:
    """``.jsonl``, ``.csv`` and so on, whatever packs the file; ``""`` if it is none of them."""
    inner = path.with_suffix("") if path.suffix.lower() in PACKINGS else path
    suffix = inner.suffix.lower()
    return suffix if suffix in KINDS else ""


def split_of_name(path: PurePath) -> str | None:
    """The split that a file is of by its name: ``train``, ``evaluation``, or None.

    A folder that is named as a split says so of all files in it, and goes before their names.

    Args:
        path: relative to the dataset's folder.
    """
    for folder in path.parts[:-1]:
        if folder.lower() in SPLITS:
            return SPLITS[folder.lower()]
    for part in reversed(path.parts):
        for word in _BREAKS.split(part.lower()):
            if word in SPLITS:
                return SPLITS[word]
    return None


def describes(path: PurePath) -> bool:
    """Whether a file stands beside the rows: README, ``dataset_infos.json``, a cache."""
    return _ABOUT.fullmatch(path.name) is not None


def printable(name: str) -> str:
    """A name in a form that can be written: bytes that are no UTF-8, and halves of surrogates."""
    return name.encode("utf-8", "backslashreplace").decode()
