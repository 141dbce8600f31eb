"""Folders that ``save_to_disk`` of ``datasets`` wrote: one dataset, or one for each split."""

from __future__ import annotations

import json
from pathlib import Path, PurePath

from rlhf.data.names import EVALUATION, TRAIN, split_of_name
from rlhf.errors import DataError

_STATE, _SPLITS = "state.json", "dataset_dict.json"


def saved_files(folder: Path) -> tuple[list[Path], list[str]]:
    """The Arrow files, in their order, and the names of the splits that are not read.

    Of splits, only those for training are read where there are some for evaluation, too.
    Both are empty if the folder is no such folder.

    Raises:
        DataError: the folder is damaged.
    """
    if (folder / _SPLITS).is_file():
        splits = [str(one) for one in _json(folder / _SPLITS, "splits")]
        kinds = {split: split_of_name(PurePath(split)) for split in splits}
        both = {TRAIN, EVALUATION} <= set(kinds.values())
        read = [one for one in splits if not both or kinds[one] == TRAIN]
        files = [file for split in read for file in saved_files(folder / split)[0]]
        return files, [one for one in splits if one not in read]
    if not (folder / _STATE).is_file():
        return [], []
    files = [folder / str(one["filename"]) for one in _json(folder / _STATE, "_data_files")]
    for file in files:
        if not file.is_file():
            raise DataError(
                f"The saved dataset lacks its file {file.name}.",
                where=folder,
                expected=f"the files that {_STATE} names",
                hint="save or copy it again",
            )
    return files, []


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
