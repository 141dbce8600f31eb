"""Find the training rows of a run that repeat another, or ask what a held-out one asks."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict

from rlhf.config.mixture import DuplicatesSlice
from rlhf.data.duplicates import Method, Place, Prompts, Text, find, whole_text
from rlhf.data.left_out import write_left_out
from rlhf.data.rows import SPLITS
from rlhf.data.rows_file import read_rows
from rlhf.stages.stage import Stage, main

logger = logging.getLogger(__name__)


def run(stage: Stage) -> None:
    """Write ``duplicates``, the list of rows to leave out, and the manifest."""
    config = stage.read(DuplicatesSlice)
    method = Method(config.remove == "near", config.threshold, config.words)
    view = config.view
    folders = {path.parent.name: path.parent / "rows" for path in stage.inputs["rows"]}
    prompts = Prompts()
    trained: list[tuple[Place, str]] = []

    def texts() -> Iterator[Text]:
        # Of a held-out row and its copy the held-out one stays; else the one that comes first.
        for split in reversed(SPLITS):
            for name in sorted(folders):
                for row in read_rows(folders[name], view, split):
                    prompts.add(view, name, split, row)
                    if split == "train":
                        trained.append((Place(name, split, row.id), row.group))
                    yield whole_text(name, split, row)

    matches = {match.place: match for match in find(texts(), method)}
    held_out = prompts.held_out(method)
    left_out = []
    counts = {name: Counter(rows=0, exact=0, near=0, held_out=0) for name in sorted(folders)}
    for place, group in trained:
        counts[place.dataset]["rows"] += 1
        match = matches.get(place)
        if match is None and group not in held_out:
            continue
        kind = match.kind if match else "held_out"
        counts[place.dataset][kind] += 1
        found = {"of": asdict(match.of), "similarity": match.similarity} if match else {}
        left_out.append({"dataset": place.dataset, "id": place.id, "kind": kind} | found)
    write_left_out(stage.outputs["duplicates"], left_out)
    logger.info("%s: %s", stage.name, {name: dict(count) for name, count in counts.items()})
    stage.finish(counts={name: dict(count) for name, count in counts.items()})


if __name__ == "__main__":
    main(run)
