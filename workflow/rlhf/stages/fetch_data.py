"""Normalize one dataset: a file in some format → rows in Parquet, and their statistics."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

from rlhf.data.formats import Source
from rlhf.data.rows import RowsWriter, view_of
from rlhf.data.split import VIEW_OF, split_of, stage_of
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
    source = Source(config["format"], path, config.get("options"))
    statistics = Statistics()
    parts, salt = config.get("stage_split"), config["split_salt"]
    elsewhere: Counter[str] = Counter()
    with (
        atomic_directory(stage.outputs["rows"], guard=fence.check) as folder,
        RowsWriter(folder) as writer,
    ):
        for row in source:
            split = split_of(row.group, config["validation_fraction"], salt)
            view = view_of(row)
            # What is held out trains no stage: all may measure on it.
            if parts and split == "train" and view != VIEW_OF[stage_of(row.group, parts, salt)]:
                elsewhere[view] += 1
                continue
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
    if parts:
        counts["left_to_other_stages"] = dict(sorted(elsewhere.items()))
    logger.info("%s: %s", stage.name, counts)
    facts = {"source": {"path": config["path"], "sha256": digest_file(path)}}
    stage.finish(counts=counts, facts=facts)


if __name__ == "__main__":
    main(run)
