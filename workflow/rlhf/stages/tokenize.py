"""Tokenize one view of a dataset with one model's tokenizer and chat template."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rlhf.config.tokenization import TokenizeSlice
from rlhf.core.files import atomic_directory
from rlhf.data.arrow import DatasetWriter, record_batch
from rlhf.data.encoding import Encoder
from rlhf.data.joining import Joining, join_samples, named
from rlhf.data.rows import SPLITS, Row
from rlhf.data.rows_file import RowsFile
from rlhf.data.split import LEFT_TO_OTHERS
from rlhf.data.tags import ReplyTags
from rlhf.data.templates.chat import (
    check_tokenizer,
    is_of_package,
    template_digest,
    tokenizer_digest,
)
from rlhf.data.tokenizing import Limits, Tally, features_of, tokenize
from rlhf.errors import DataError, IntegrityError
from rlhf.models.context import check_length, context_of
from rlhf.models.trust import is_trusted, reading
from rlhf.provenance.manifest import read_manifest
from rlhf.runtime import fence
from rlhf.runtime.pool import in_order
from rlhf.stages.stage import Stage, main

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Features
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

GROUPS_A_PROCESS = 16  # row groups at least: with fewer it takes longer to start than to work


def run(stage: Stage) -> None:
    """Write ``data/train``, ``data/validation`` and the manifest."""
    config = stage.read(TokenizeSlice)
    limits, joining = _limits(config), _joining(config)
    left = read_manifest(stage.input("data"))["counts"].get(LEFT_TO_OTHERS, {})
    tokenizer = _load_tokenizer(stage.input("model"))
    facts = tokenizer_facts(tokenizer)
    _check_facts(facts, stage.input("model"))
    _check_context(stage, limits)
    rows = stage.folder("data") / "rows"
    file = RowsFile(rows, limits.view)
    features = features_of(limits.view, file.kept, joining is not None, file.scored)
    compared = not is_of_package(tokenizer)
    encoder = Encoder(tokenizer, stage.folder("model").name, compared)
    work = Tokenizing(encoder, limits, features.arrow_schema, rows, joining)
    groups = file.groups
    processes = min(int(os.environ.get("OMP_NUM_THREADS", "1")), groups // GROUPS_A_PROCESS)
    with (
        atomic_directory(stage.outputs["data"], guard=fence.check) as folder,
        in_order(work, range(groups), processes) as results,
    ):
        tallies = _write(folder, features, results)
        counts = {split: tally.as_dict(limits.view) for split, tally in tallies.items()}
        for split, count in counts.items():
            logger.info("%s %s: %s", stage.name, split, count)
        _check_rows(counts, rows, limits)
    elsewhere = left.get(limits.view, 0)
    stage.finish(counts=counts, facts=facts | ({LEFT_TO_OTHERS: elsewhere} if elsewhere else {}))


def _limits(config: TokenizeSlice) -> Limits:
    tags = config.reply_tags
    return Limits(
        view=config.view,
        max_length=config.max_length,
        overlong=config.overlong,
        min_prefix=config.min_prefix,
        max_replies=config.max_replies,
        system_prefix=config.system_prefix,
        reply_tags=ReplyTags(tags.dropout, tags.length) if tags else None,
        random_offset=config.random_offset,
        seed=config.seed,
    )


def _joining(config: TokenizeSlice) -> Joining | None:
    mixing = config.samples_mixing
    if mixing is None:
        return None
    return Joining(mixing.shorter_than, mixing.probability, config.max_length, config.seed)


@dataclass
class Tokenizing:
    """What is done with a row group, in a process that may do many.

    Attributes:
        encoder: tokenizer and template.
        limits: view, length and policy.
        schema: columns of the samples.
        rows: rows folder.
        joining: which short training conversations are joined to one row, of those in the group.
    """

    encoder: Encoder
    limits: Limits
    schema: pa.Schema
    rows: Path
    joining: Joining | None = None

    @cached_property
    def _file(self) -> RowsFile:
        return RowsFile(self.rows, self.limits.view)

    def __call__(self, group: int) -> dict[str, tuple[pa.RecordBatch, Tally]]:
        """Samples and counts of each split."""
        rows: dict[str, list[Row]] = {split: [] for split in SPLITS}
        for split, row in self._file.read(group):
            rows[split].append(row)
        made = {}
        for split, some in rows.items():
            tally = Tally()
            samples = list(tokenize(some, self.encoder, self.limits, tally))
            if self.joining is not None:
                joined = [*join_samples(samples, self.joining)] if split == "train" else None
                samples = joined or [*map(named, samples)]
                tally.joined = tally.rows - len(samples)
                tally.rows = len(samples)
            made[split] = record_batch(self.schema, samples), tally
        return made


def _write(
    folder: Path, features: Features, results: Iterable[dict[str, tuple[pa.RecordBatch, Tally]]]
) -> dict[str, Tally]:
    """Write all samples of each split to its folder; returns what became of the rows."""
    tallies = {split: Tally() for split in SPLITS}
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(DatasetWriter(folder / split, features)) for split in SPLITS
        }
        for result in results:
            for split, (samples, tally) in result.items():
                writers[split].add(samples)
                tallies[split].add(tally)
    return tallies


def tokenizer_facts(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What later stages compare before they use the ids with a model."""
    return {
        "tokenizer_digest": tokenizer_digest(tokenizer),
        "template_digest": template_digest(tokenizer),
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _load_tokenizer(manifest: Path) -> PreTrainedTokenizerBase:
    folder = manifest.parent / "model"
    if __name__ == "__main__" and not is_trusted(folder):
        _without_torch()
    from transformers import AutoTokenizer

    if not folder.is_dir():  # transformers would take the path for the name of a model on the hub
        raise IntegrityError(
            "The model's folder is missing.",
            where=folder,
            expected="the folder that its manifest describes",
            hint=f"delete {manifest} and run snakemake again",
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, **reading(folder))
    check_tokenizer(tokenizer, model=manifest.parent.name)
    return tokenizer


def _without_torch() -> None:
    """Keep torch out of this process: tokenizers don't need it, and it takes long to import.

    transformers imports it wherever it is installed; the code that a model brings may use it.
    """
    sys.modules.setdefault("torch", cast(Any, None))  # as Python notes what can't be imported
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that torch was not found


def _check_context(stage: Stage, limits: Limits) -> None:
    """What is longer than the model takes would be found out in training, or never."""
    folder = stage.folder("model")
    if (folder / "model/config.json").is_file():  # else it is a tokenizer, which takes any length
        key = f"tokenization.{limits.view}.max_length"
        check_length(context_of(folder / "model"), limits.max_length, key, f"models.{folder.name}")


def _check_facts(facts: dict[str, Any], manifest: Path) -> None:
    """The tokenizer has to be the one that the model's manifest speaks of."""
    known = read_manifest(manifest)["facts"]
    for key in ("tokenizer_digest", "template_digest"):
        if known.get(key, facts[key]) != facts[key]:
            raise IntegrityError(
                f"The tokenizer's files do not match the model's manifest ({key}).",
                where=manifest,
                expected=f"{key} {known[key]}, found {facts[key]}",
                hint=f"somebody edited the folder: delete {manifest} and run snakemake again",
            )


def _check_rows(counts: dict[str, dict[str, Any]], rows: Path, limits: Limits) -> None:
    """A split that had rows and has none left is a mistake of the limits, not a result."""
    view = limits.view
    where = rows / f"{view}.parquet"
    if not any(count["source_rows"] for count in counts.values()):
        raise DataError(
            f"The dataset has no rows for the view {view!r}.",
            where=where,
            expected="at least one row",
            hint="name another dataset for this view",
        )
    for split, count in counts.items():
        if count["source_rows"] and not count["rows"]:
            raise DataError(
                f"All {count['source_rows']} rows of {split} were dropped: "
                f"{count['dropped_reasons']}.",
                where=where,
                expected="at least one row",
                hint=f"raise `tokenization.{view}.max_length`"
                + (
                    ", or set `overlong` to truncate: it leaves out the oldest turns of dialogues"
                    if limits.overlong == "drop"
                    else ""
                ),
            )


if __name__ == "__main__":
    main(run)
