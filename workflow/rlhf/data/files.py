"""Which files a dataset is read from: a file, a folder, a glob, or what ``datasets`` saved."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from rlhf.data.names import (
    EVALUATION,
    KINDS,
    PACKINGS,
    TRAIN,
    describes,
    kind_of,
    printable,
    split_of_name,
)
from rlhf.data.saved import saved_files
from rlhf.errors import DataError

ABOUT = "beside the rows: about the dataset, or a cache"
ALL_SPLITS = '`files: ["*"]` reads all'


@dataclass
class Files:
    """The files of a dataset.

    Attributes:
        read: those that are read, in that order.
        left: name in the folder → why it is not read.
    """

    read: list[Path] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)


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
    """The files that ``survey`` finds, in the order in which they are read."""
    return survey(path, patterns).read


def survey(path: str | Path, patterns: Sequence[str] | None = None) -> Files:
    """Which files of a dataset are read, and which are not. Links are followed.

    Args:
        path: a file, a folder, or a glob in which ``**`` stands for folders.
        patterns: globs of files in a folder, such as ``data/train-*.parquet``; None: all files
            of a known kind that are not hidden, by name; only those for training, where others
            are for evaluation by their names.

    Raises:
        DataError: nothing is there; it says what is there instead.
    """
    if is_glob(path):
        return _matching(Path(path))
    path = Path(path)
    if not path.exists():
        raise DataError(
            "The dataset's file does not exist.",
            where=path,
            expected="a file or a folder, relative to the folder that snakemake runs in",
            hint="correct `path` in the configuration, or put the file there",
        )
    if path.is_file():
        return Files([path])
    return _chosen(path, patterns) if patterns else _saved(path) or _all(path)


def _matching(pattern: Path) -> Files:
    root = root_of(pattern)
    parts = pattern.relative_to(root).parts
    deepest = None if "**" in parts else len(parts)
    listed = _listed(root, deepest, hidden=any(one.startswith(".") for one in parts))
    found = Files()
    for one in listed.read:
        if _matches(one.relative_to(root).parts, parts):
            if describes(one) and one.name != parts[-1]:
                found.left[_name(one, root)] = ABOUT
            else:
                found.read.append(one)
    for name, why in listed.left.items():
        if _matches(name.split("/"), parts):
            found.left[name] = why
    if not found.read:
        raise DataError(
            "No file matches this pattern.",
            where=pattern,
            expected="at least one file, relative to the folder that snakemake runs in",
            hint=_there(root),
        )
    return _each_once(found, root)


def _matches(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether the parts of a name match those of a glob."""
    if not parts:
        return not names
    if parts[0] == "**":
        inner = parts[1:] or ("*",)
        return any(_matches(names[start:], inner) for start in range(len(names)))
    return (
        bool(names) and fnmatch.fnmatchcase(names[0], parts[0]) and _matches(names[1:], parts[1:])
    )


def _chosen(folder: Path, patterns: Sequence[str]) -> Files:
    listed = _listed(folder)
    names = {_name(one, folder): one for one in listed.read}
    chosen: dict[str, None] = {}
    left = dict.fromkeys(names, "`files` does not choose it") | listed.left
    for pattern in patterns:
        matches = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not matches:
            raise DataError(
                f"No file in the folder matches {pattern!r}.",
                where=folder,
                expected="a file for each of `files`",
                hint=_there(folder),
            )
        for name in matches:
            # A wildcard means rows; who names a file means that one.
            if describes(names[name]) and pattern not in (name, glob.escape(name)):
                left[name] = ABOUT
            else:
                chosen[name] = None
    if not chosen:
        raise _no_data(folder)
    left = {name: why for name, why in left.items() if name not in chosen}
    return _each_once(Files([names[name] for name in chosen], left), folder)


def _all(folder: Path) -> Files:
    listed = _listed(folder)
    kinds = {one: "" if describes(one) else kind_of(one) for one in listed.read}
    tables = bool(set(kinds.values()) - {"", ".txt"})
    rows = [one for one, kind in kinds.items() if kind and (kind != ".txt" or not tables)]
    splits = {one: split_of_name(one.relative_to(folder)) for one in rows}
    both = {TRAIN, EVALUATION} <= set(splits.values())
    found = Files(left=listed.left)
    for one, kind in kinds.items():
        if describes(one):
            why = ABOUT
        elif not kind:
            why = "its name has no known ending"
        elif one not in splits:
            why = "a text among files of rows"
        elif both and splits[one] != TRAIN:
            said = "for evaluation" if splits[one] else "of no split"
            why = f"{said} by its name, beside files for training; {ALL_SPLITS}"
        else:
            found.read.append(one)
            continue
        found.left[_name(one, folder)] = why
    if not found.read:
        raise _no_data(folder)
    return _each_once(found, folder)


def _no_data(folder: Path) -> DataError:
    return DataError(
        "The folder holds no data.",
        where=folder,
        expected=f"files that end with one of {', '.join(KINDS)}, plain or "
        f"packed ({', '.join(PACKINGS)})",
        hint=_there(folder),
    )


def _saved(folder: Path) -> Files | None:
    read, splits = saved_files(folder)
    if not read:
        return None
    left = {f"{one}/": f"another split than for training; {ALL_SPLITS}" for one in splits}
    for one in _listed(folder).read:
        inside = any(one.is_relative_to(folder / split) for split in splits)
        if one not in read and not inside:
            left[_name(one, folder)] = ABOUT if describes(one) else "not of the saved dataset"
    return Files(read, left)


def _listed(folder: Path, deepest: int | None = None, hidden: bool = False) -> Files:
    """All files in a folder and below, by name; hidden ones and what is no file are left."""
    found = Files()
    for path, why in _walk(folder, (), deepest, hidden):
        if why:
            found.left[_name(path, folder)] = why
        else:
            found.read.append(path)
    found.read.sort(key=lambda one: one.relative_to(folder))
    return found


def _walk(
    folder: Path, above: tuple[str, ...], deepest: int | None, hidden: bool
) -> Iterator[tuple[Path, str | None]]:
    """What is in a folder and below, each with why it is no file to read, or None."""
    real = os.path.realpath(folder)
    if real in above:
        yield folder, "a link to a folder that it is in"
        return
    try:
        entries = sorted(one.name for one in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    except PermissionError:
        yield folder, "a folder that may not be read"
        return
    for name in entries:
        path = folder / name
        if name.startswith(".") and not hidden:
            yield path, "hidden"
        elif path.is_dir():
            if deepest == 1:
                yield path, "a folder"
            else:
                below = None if deepest is None else deepest - 1
                yield from _walk(path, (*above, real), below, hidden)
        elif path.is_file():
            yield path, None
        else:
            yield path, "a broken link" if path.is_symlink() else "no file"


def _each_once(found: Files, folder: Path) -> Files:
    """The same without files that links lead to a second time: their rows would count twice."""
    real = {one: os.path.realpath(one) for one in found.read}
    base = os.path.realpath(folder)
    owners: dict[str, Path] = {}
    for one in sorted(found.read, key=lambda one: f"{base}/{_name(one, folder)}" != real[one]):
        owners.setdefault(real[one], one)
    again = [one for one in found.read if owners[real[one]] != one]
    left = {_name(one, folder): f"the same file as {_name(owners[real[one]], folder)}"
            for one in again}  # fmt: skip
    read = [one for one in found.read if owners[real[one]] == one]
    return Files(read, dict(sorted((found.left | left).items())))


def _name(path: Path, folder: Path) -> str:
    return printable(PurePath(path).relative_to(folder).as_posix())


def _there(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} is no folder"
    names = [_name(one, folder) for one in _listed(folder).read]
    if not names:
        return f"{folder} is empty"
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"{folder} holds: {shown}"
