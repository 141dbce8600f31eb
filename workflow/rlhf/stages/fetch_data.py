"""Normalize one dataset: a file in some format → rows in Parquet, and their statistics."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from rlhf.data.files import find_files
from rlhf.data.formats import Source
from rlhf.data.rows import RowsWriter
from rlhf.data.split import split_of
from rlhf.data.statistics import Statistics
from rlhf.provenance.digest import digest_file
from rlhf.runtime import fence
from rlhf.runtime.files import atomic_directory, write_json
from rlhf.stages.stage import Stage, main

logger = logging.getLogger(__name__)


def run(stage: Stage) -> None:
    """Read ``config.path``, write ``rows``, ``statistics`` and the manifest."""
    config = stage.config
    path = Path(config["path"])
    source = Source(
        config["format"], path, config.get("options"), config.get("files"), dataset=stage.name
    )
    statistics = Statistics()
    with (
        atomic_directory(stage.outputs["rows"], guard=fence.check) as folder,
        RowsWriter(folder) as writer,
    ):
        for row in source:
            split = split_of(row.group, config["validation_fraction"], config["split_salt"])
            writer.add(row, split)
            statistics.add(row, split)
    report = statistics.as_dict(source.faults)
    write_json(stage.outputs["statistics"], report)
    counts = {
        "rows": statistics.counts(),
        "duplicates": statistics.duplicates(),
        "dropped": report["dropped"],
        "filtered": report["filtered"],
    }
    logger.info("%s: %s", stage.name, counts)
    stage.finish(counts=counts, facts={"source": _describe(config["path"], config.get("files"))})


def _describe(path: str, patterns: list[str] | None) -> dict[str, Any]:
    """The path, and the digest of the file; or of each, if there are several."""
    found = find_files(path, patterns)
    if found == [Path(path)]:
        return {"path": path, "sha256": digest_file(path)}
    return {"path": path, "files": {str(one): digest_file(one) for one in found}}


if __name__ == "__main__":
    main(run)
