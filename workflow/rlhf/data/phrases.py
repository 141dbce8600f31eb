"""Rows with texts that nobody wants to train on: refusals, left-over references, empty messages.

What Open-Assistant's ``check_dataset_appearances`` looks for, but counted by row and anywhere in a
message: its patterns are matched at the beginning alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.data.rows import SPLITS, VIEWS, texts_of
from rlhf.data.rows_file import read_rows

PHRASES = (
    "As a large language model",
    "as a language model",
    "As an AI ",
    "as an AI language model",
    "as an OpenAI language model",
    "I am an AI ",
    "I'm an AI ",
    "I cannot assist",
    "I do not have personal preferences",
    "I don't have personal preferences",
    "I'm sorry, I cannot",
    "Unfortunately, I cannot provide",
    "my knowledge cut off",
    "my knowledge cutoff",
    "trained by OpenAI",
)
PATTERNS = {
    "(white space alone)": re.compile(r"\A\s*\Z"),
    "(references such as [1] or [2, 3])": re.compile(r"\[\d+(?:,\s*\d+)*\]"),
}
AROUND = 50  # characters shown on both sides


def count(
    folders: Mapping[str, Path], phrases: Sequence[str] = PHRASES, examples: int = 1
) -> list[dict[str, Any]]:
    """Count the rows of datasets in which a phrase or pattern appears, as it is written.

    Args:
        folders: dataset name → rows folder.
        phrases: texts to look for; case counts.
        examples: places kept for each phrase.

    Returns:
        For each dataset, view, split and phrase that appears there: ``rows``, ``of`` (all rows of
        this part) and ``examples`` (id and the text around).
    """
    patterns = {phrase: re.compile(re.escape(phrase)) for phrase in phrases} | PATTERNS
    found: list[dict[str, Any]] = []
    for name, view, split in (
        (name, view, split) for name in folders for view in VIEWS for split in SPLITS
    ):
        entries: dict[str, dict[str, Any]] = {}
        rows = 0
        for row in read_rows(folders[name], view, split):
            rows += 1
            texts = list(texts_of(row))
            for phrase, pattern in patterns.items():
                hit = next(filter(None, map(pattern.search, texts)), None)
                if hit is None:
                    continue
                entry = entries.setdefault(phrase, {"rows": 0, "examples": []})
                entry["rows"] += 1
                if len(entry["examples"]) < examples:
                    around = hit.string[max(0, hit.start() - AROUND) : hit.end() + AROUND]
                    entry["examples"].append({"id": row.id, "text": around})
        place = {"dataset": name, "view": view, "split": split, "of": rows}
        found += [place | {"phrase": phrase} | entry for phrase, entry in entries.items()]
    return found
