"""Which files a dataset is read from: a file, a folder, a glob, or what ``datasets`` saved."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence
from pathlib import Path

from rlhf.errors import DataError

# Kinds by the end of a file's name; another name is read as JSON lines or a JSON list.
KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt")
PACKINGS = (".gz", ".zst")
_SAVED, _SAVED_SPLITS = "state.json", "dataset_dict.json"  # `save_to_disk` of `datasets`


def kind_of(path: Path) -> str:
    """``.jsonl``, ``.csv`` and so on, whatever packs the file; ``""`` if it is none of them."""
    inner = path.with_suffix("") if path.suffix.lower() in PACKINGS else path
    suffix = inner.suffix.lower()
    return suffix if suffix in KINDS else ""


def is_glob(path: str | Path) -> bool:
    """Whether a path is a pattern, and no file of that very name."""
    return any(char in str(path) for char in "*?[") and not Path(path).exists()


def root_of(path: str | Path) -> Path:
    """The path itself, or the folder that a glob looks in."""
    if not is_glob(path):
        return Path(path)
    fixed = []
    for part in Path(path).parts:
        if any(char in part for char in "*?["):
            break
        fixed.append(part)
    return Path(*fixed)


def find_files(path: str | Path, patterns: Sequence[str] | None = None) -> list[Path]:
    """The files of a dataset, in the order in which they are read.

    Args:
        path: a file, a folder, or a glob in which ``**`` stands for folders.
        patterns: globs of files in a folder, such as ``data/train-*.parquet``; None: all files
            of a known kind that are not hidden, by name.

    Raises:
        DataError: nothing is there; it says what is there instead.
    """
    if is_glob(path):
        root = root_of(path)
        matches = sorted(root.glob(str(Path(path).relative_to(root))))
        found = [one for one in matches if one.is_file()]
        if not found:
            raise DataError(
                "No file matches this pattern.",
                where=path,
                expected="at least one file, relative to the folder that snakemake runs in",
                hint=_there(root_of(path)),
            )
        return found
    path = Path(path)
    if not path.exists():
        raise DataError(
            "The dataset's file does not exist.",
            where=path,
            expected="a file or a folder, relative to the folder that snakemake runs in",
            hint="correct `path` in the configuration, or put the file there",
        )
    if path.is_file():
        return [path]
    return _chosen(path, patterns) if patterns else _saved(path) or _all(path)


def _chosen(folder: Path, patterns: Sequence[str]) -> list[Path]:
    listed = _listed(folder)
    found = []
    for pattern in patterns:
        matches = [one for one in listed if fnmatch.fnmatchcase(one.as_posix(), pattern)]
        if not matches:
            raise DataError(
                f"No file in the folder matches {pattern!r}.",
                where=folder,
                expected="a file for each of `files`",
                hint=_there(folder),
            )
        found += [folder / one for one in matches]
    return list(dict.fromkeys(found))


def _all(folder: Path) -> list[Path]:
    found = [folder / one for one in _listed(folder) if kind_of(one)]
    if not found:
        raise DataError(
            "The folder holds no data.",
            where=folder,
            expected=f"files that end with one of {', '.join(KINDS)}, plain or "
            f"packed ({', '.join(PACKINGS)})",
            hint=_there(folder),
        )
    return found


def _listed(folder: Path) -> list[Path]:
    names = (one.relative_to(folder) for one in folder.rglob("*") if one.is_file())
    return sorted(one for one in names if not any(part.startswith(".") for part in one.parts))


def _saved(folder: Path) -> list[Path]:
    """Arrow files of a folder that ``datasets`` saved: of one dataset, or of each split."""
    if (folder / _SAVED_SPLITS).is_file():
        splits = _json(folder / _SAVED_SPLITS, "splits")
        return [file for split in splits for file in _saved(folder / str(split))]
    if not (folder / _SAVED).is_file():
        return []
    files = [folder / str(one["filename"]) for one in _json(folder / _SAVED, "_data_files")]
    for file in files:
        if not file.is_file():
            raise DataError(
                f"The saved dataset lacks its file {file.name}.",
                where=folder,
                expected=f"the files that {_SAVED} names",
                hint="save or copy it again",
            )
    return files


def _json(path: Path, key: str) -> list:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))[key]
        if isinstance(value, list):
            return value
    except (ValueError, KeyError, TypeError):
        pass
    raise DataError(
        "The folder of a saved dataset is damaged.",
        where=path,
        expected=f"a JSON object with a list `{key}`",
        hint="save it again with `save_to_disk`",
    )


def _there(folder: Path) -> str:
    names = [one.as_posix() for one in _listed(folder)] if folder.is_dir() else []
    if not names:
        return f"{folder} is {'empty' if folder.is_dir() else 'no folder'}"
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"{folder} holds: {shown}"
