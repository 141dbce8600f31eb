"""Fetch and normalize one dataset: files in some format → rows in Parquet, and statistics."""

from __future__ import annotations

import glob
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.config.data import DatasetSlice, DatasetSource
from rlhf.core.digest import digest_file
from rlhf.core.files import atomic_directory, write_json
from rlhf.data.files import find_files
from rlhf.data.formats.accounts import total
from rlhf.data.formats.source import Source
from rlhf.data.rows import view_of
from rlhf.data.rows_file import RowsWriter
from rlhf.data.split import LEFT_TO_OTHERS, part_of, split_of
from rlhf.data.statistics import Statistics
from rlhf.errors import DataError
from rlhf.runtime import fence
from rlhf.sources import addresses as urls
from rlhf.sources import hub
from rlhf.sources.downloaded import Downloaded
from rlhf.sources.locks import Lock, Locked
from rlhf.stages.stage import Stage, main

logger = logging.getLogger(__name__)


def run(stage: Stage) -> None:
    """Read ``config.path`` or ``config.source``, write ``rows``, ``statistics`` and manifest."""
    config = stage.read(DatasetSlice)
    found = _locate(config, stage.name)
    source = Source(config.format, found.path, config.options, found.files, dataset=stage.name)
    statistics = Statistics()
    parts = dict(config.stage_split) if config.stage_split else None
    salt = config.split_salt
    elsewhere: Counter[str] = Counter()
    with (
        atomic_directory(stage.outputs["rows"], guard=fence.check) as folder,
        RowsWriter(folder, source.kept, source.scored) as writer,
    ):
        for row in source:
            split = split_of(row.group, config.validation_fraction, salt)
            view = view_of(row)
            # What is held out trains no stage: all may measure on it.
            if parts and split == "train" and view != part_of(row.group, parts, salt):
                elsewhere[view] += 1
                continue
            writer.add(row, split)
            statistics.add(row, split)
    report = statistics.as_dict(source)
    write_json(stage.outputs["statistics"], report)
    counts = {
        "read": total(source.files.values()).as_dict() | {"files": len(source.files)},
        "rows": statistics.counts(),
        "duplicates": statistics.duplicates(),
        "dropped": report["dropped"],
        "filtered": report["filtered"],
        "unread": report["unread"],
        "noticed": report["noticed"],
    }
    if parts:
        counts[LEFT_TO_OTHERS] = dict(sorted(elsewhere.items()))
    logger.info("%s: %s", stage.name, counts)
    facts = {"source": _describe(config, found), "not_read": source.not_read}
    stage.finish(counts=counts, facts=facts)


@dataclass(frozen=True)
class _Found:
    """A dataset on this machine.

    Attributes:
        path: a file, folder or glob.
        files: globs of the files that are read in the folder, or None.
        downloaded: what was downloaded, or None.
    """

    path: Path
    files: list[str] | None
    downloaded: Downloaded | None = None


def _locate(config: DatasetSlice, name: str) -> _Found:
    """The dataset on this machine, after downloading what is not on it."""
    files, source = config.files, config.source
    if config.path is not None:
        return _Found(Path(config.path), files)
    assert source is not None  # else there is a path, says the configuration
    given = source.model_dump(mode="json", exclude_none=True)
    locked = Lock.of_environment().locked("datasets", name, given, config.lock)
    made = _download(source, files or ["*"], f"datasets.{name}", locked)
    if locked:
        locked.check_files(made.files)
    if source.url is None:
        return _Found(made.folder, files, made)
    names = list(made.files)
    if len(names) == 1:
        return _Found(made.folder / names[0], None, made)
    return _Found(made.folder, [glob.escape(one) for one in names], made)


def _download(
    source: DatasetSource, patterns: list[str], where: str, locked: Locked | None
) -> Downloaded:
    if source.url is not None:
        files = locked.entry["files"] if locked else {}
        digests = {one: file["sha256"] for one, file in files.items()}
        return urls.download(urls.read_addresses(source.url), where, digests)
    assert source.hub is not None  # else there is an address
    assert source.revision is not None
    revision = locked.entry["commit"] if locked else source.revision
    made = hub.download(hub.Repository(source.hub, revision, where, "dataset"), patterns)
    if not made.files:
        raise DataError(
            f"No file of the repository matches {', '.join(map(repr, patterns))}.",
            where=f"{where}.files: {source.hub} at {source.revision}",
            expected="a file for each of `files`",
            hint="look at the repository's files and correct `files`",
        )
    return made


def _describe(config: DatasetSlice, found: _Found) -> dict[str, Any]:
    """Where the rows are from: the source, and the digest of each file that was read."""
    path, made = found.path, found.downloaded
    read = find_files(path, found.files)
    if made is None and read == [path]:
        return {"path": config.path, "sha256": digest_file(path)}
    root = path if path.is_dir() else path.parent if made else Path()
    names = [str(one.relative_to(root) if one.is_relative_to(root) else one) for one in read]
    if made is None:
        digests = {name: digest_file(one) for name, one in zip(names, read, strict=True)}
        return {"path": config.path, "files": digests}
    commit = {"commit": made.commit} if made.commit else {}
    digests = {name: made.files[name]["sha256"] for name in names}
    source = config.source.model_dump(mode="json", exclude_none=True) if config.source else {}
    return source | commit | {"files": digests}


if __name__ == "__main__":
    main(run)
