"""Fetch and normalize one dataset: files in some format → rows in Parquet, and statistics."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

from rlhf.data.files import find_files
from rlhf.data.formats import Source
from rlhf.data.rows import RowsWriter, view_of
from rlhf.data.split import VIEW_OF, split_of, stage_of
from rlhf.data.statistics import Statistics
from rlhf.errors import DataError
from rlhf.hub import download
from rlhf.provenance.digest import digest_file
from rlhf.runtime import fence
from rlhf.runtime.files import atomic_directory, write_json
from rlhf.stages.stage import Stage, main

logger = logging.getLogger(__name__)


def run(stage: Stage) -> None:
    """Read ``config.path`` or ``config.source``, write ``rows``, ``statistics`` and manifest."""
    config = stage.config
    files = config.get("files")
    path = _locate(config, f"datasets.{stage.name}")
    source = Source(config["format"], path, config.get("options"), files, dataset=stage.name)
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
    stage.finish(counts=counts, facts={"source": _describe(config, path)})


def _locate(config: dict[str, Any], where: str) -> Path:
    """The dataset's file or folder on this machine, after downloading what is not on it."""
    if "path" in config:
        return Path(config["path"])
    source = config["source"]
    if "hub" in source:
        patterns = config.get("files") or ["*"]
        folder = download(source["hub"], source["revision"], where, patterns, kind="dataset")
        if not folder.is_dir():
            raise DataError(
                f"No file of the repository matches {', '.join(map(repr, patterns))}.",
                where=f"{where}.files: {source['hub']} at {source['revision']}",
                expected="a file for each of `files`",
                hint="look at the repository's files and correct `files`",
            )
        return folder
    raise DataError(
        "This dataset is one file outside of the hub, which is not downloaded.",
        where=f"{where}.source.url: {source['url']}",
        expected="a dataset on the hub, or a local one",
        hint="download it yourself and give its `path`",
    )


def _describe(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Where the rows are from: the source, and the digest of each file that was read."""
    found = find_files(path, config.get("files"))
    if "path" in config and found == [path]:
        return {"path": config["path"], "sha256": digest_file(path)}
    named = {"path": config["path"]} if "path" in config else dict(config["source"])
    if "hub" in named:
        named["commit"] = path.name  # of the snapshot in the hub's cache
    root = path if path.is_dir() else Path()
    digests = {
        str(one.relative_to(root) if one.is_relative_to(root) else one): digest_file(one)
        for one in found
    }
    return {**named, "files": digests}


if __name__ == "__main__":
    main(run)
