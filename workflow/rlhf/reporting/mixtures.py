"""What datasets hold and what runs draw from them, in figures."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf import paths
from rlhf.catalog import DRAWING
from rlhf.core.files import write_atomic
from rlhf.data.left_out import DUPLICATES, read_left_out
from rlhf.data.mixture import Mixture, Share
from rlhf.data.rows import SPLITS
from rlhf.errors import IntegrityError
from rlhf.provenance.manifest import MANIFEST, read_manifest

if TYPE_CHECKING:
    from rlhf.config.schema import Config

BINS = 20


def describe(config: Config, results: Path, runs: list[str]) -> dict[str, Any]:
    """Figures of the runs' mixtures and of the tokenized sets that they draw from.

    Args:
        config: the configuration.
        results: folder of all artifacts.
        runs: names with their sections, such as ``sft.chat``.

    Returns:
        ``datasets``: one entry for each tokenized set and split: rows before and after
        tokenization, tokens, their mean, quantiles and histogram, what was truncated and dropped,
        the share of labelled tokens. ``mixtures``: one entry for each run, with its datasets.

    Raises:
        IntegrityError: a set is not tokenized, or the duplicates of a run are not found yet.
        ConfigError: a run asks for more rows than there are.
    """
    datasets: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    mixtures = []
    for run in runs:
        section, name = run.split(".")
        own = getattr(config, section)[name]
        view = str(DRAWING[section].view)
        model = config.base_model(section, name)
        for dataset in own.data:
            if (view, model, dataset) not in datasets:
                datasets[view, model, dataset] = _dataset(results, view, model, dataset)
        sets = {name: paths.tokenized(view, model, name, results) for name in own.data}
        mixtures.append(_mixture(run, own, sets, results))
    return {
        "datasets": [entry for key in sorted(datasets) for entry in datasets[key]],
        "mixtures": mixtures,
    }


def _dataset(results: Path, view: str, model: str, dataset: str) -> list[dict[str, Any]]:
    folder = paths.tokenized(view, model, dataset, results)
    counts = _manifest(folder)["counts"]
    entries = []
    for split in SPLITS:
        lengths = Mixture({dataset: folder / "data"}, {}, split).lengths()
        entry = {"view": view, "model": model, "dataset": dataset, "split": split}
        entries.append(entry | counts[split] | {"length": _lengths(lengths)})
    return entries


def _lengths(lengths: np.ndarray) -> dict[str, Any]:
    """Mean, quantiles and a histogram of tokens in a row."""
    if not len(lengths):
        return {}
    rows, edges = np.histogram(lengths, bins=BINS, range=(0, int(lengths.max())))
    return {
        "mean": round(float(lengths.mean()), 2),
        "median": float(np.median(lengths)),
        "p95": float(np.quantile(lengths, 0.95)),
        "max": int(lengths.max()),
        "histogram": {"edges": edges.round(2).tolist(), "rows": rows.tolist()},
    }


def _mixture(run: str, own: Any, sets: dict[str, Path], results: Path) -> dict[str, Any]:
    left_out = {}
    if own.duplicates.remove != "none":
        found = paths.duplicates(run, results)
        _manifest(found)
        left_out = read_left_out(found / DUPLICATES)
    shares = {name: Share(**share.model_dump()) for name, share in own.data.items()}
    folders = {name: folder / "data" for name, folder in sets.items()}
    counts = {name: _manifest(folder)["counts"]["train"] for name, folder in sets.items()}
    train = Mixture(folders, shares, "train", left_out)
    whole = Mixture(folders, {}, "train").sizes
    held_out = Mixture(folders, shares, "validation").sizes
    means = _means(train)
    tokens = {name: rows * means[name] for name, rows in train.epoch_rows.items()}
    entries = [
        {
            "dataset": name,
            "rows": whole[name],
            "left_out": whole[name] - train.sizes[name],
            "epoch_rows": rows,
            "share_of_rows": round(rows / max(1, train.rows_per_epoch), 6),
            "passes_per_epoch": round(rows / train.sizes[name], 4) if train.sizes[name] else 0.0,
            "epoch_tokens": round(tokens[name]),
            "share_of_tokens": round(tokens[name] / (sum(tokens.values()) or 1), 6),
            "validation_rows": held_out[name],
        }
        for name, rows in train.epoch_rows.items()
    ]
    labelled = sum(tokens[name] * counts[name].get("label_share", 0.0) for name in tokens)
    drawn = (
        own.updates * own.rollout_batch_size
        if DRAWING[run.split(".")[0]].online
        else own.epochs * train.rows_per_epoch
    )
    return {
        "run": run,
        "datasets": entries,
        "epoch_rows": train.rows_per_epoch,
        "epoch_tokens": round(sum(tokens.values())),
        "label_share": round(labelled / sum(tokens.values()), 6) if labelled else None,
        "validation_rows": sum(held_out.values()),
        "rows_in_all": drawn,
        "epochs": round(drawn / max(1, train.rows_per_epoch), 4),
    }


def _means(mixture: Mixture) -> dict[str, float]:
    """Mean tokens of a row, by dataset."""
    lengths = mixture.lengths()
    ends = np.cumsum(list(mixture.sizes.values()))
    parts = zip(mixture.sizes, np.split(lengths, ends[:-1]), strict=True)
    return {name: float(part.mean()) if len(part) else 0.0 for name, part in parts}


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise IntegrityError(
            "This has not been made yet.", where=path, hint=f"snakemake --profile local {path}"
        )
    return read_manifest(path)


def write_counts(folder: Path, found: dict[str, Any]) -> list[Path]:
    """Write rows as Open-Assistant's check_dataset_counts does, one CSV for each view.

    These are rows before tokenization, so they do not depend on a model; its limits drop none.

    Args:
        folder: where ``dataset_counts.<view>.csv`` go.
        found: from ``describe``.
    """
    rows: dict[str, dict[str, dict[str, int]]] = {}
    for entry in found["datasets"]:
        of_view = rows.setdefault(entry["view"], {})
        of_view.setdefault(entry["dataset"], {})[entry["split"]] = entry["source_rows"]
    written = []
    for view, datasets in rows.items():
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["dataset_name", "train_counts", "eval_counts", "total_counts"])
        for name, counts in datasets.items():
            table.writerow([name, counts["train"], counts["validation"], sum(counts.values())])
        written.append(folder / f"dataset_counts.{view}.csv")
        write_atomic(written[-1], text.getvalue())
    return written
