"""How an engine's state lies on the disk: the same for every kind and number of ranks.

Whole tensors by parameter name in safetensors files of bounded size, and ``engine.json``: which
file holds which tensor, and how many updates each parameter has seen. Digests and the seal are
the checkpoint's (``training.checkpoints``), which holds these files beside its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open

from rlhf.core.files import read_json, write_json
from rlhf.errors import IntegrityError
from rlhf.models.parts import bounded, write_tensors
from rlhf.training import distributed

INDEX = "engine.json"
MAX_BYTES = 2**31
MOMENTS = ("exp_avg", "exp_avg_sq")


def write_state(
    folder: Path,
    tensors: Iterator[tuple[str, torch.Tensor]],
    updates: dict[str, float],
    max_bytes: int = MAX_BYTES,
) -> list[str]:
    """Collective: write tensors, and the index from rank 0; the names of this rank's files.

    Args:
        folder: where to.
        tensors: ``weight/NAME``, and ``exp_avg/NAME`` and ``exp_avg_sq/NAME`` where a parameter
            was updated; of all ranks together each once. They are taken to their end whatever
            happens, for ranks may have to give each together.
        updates: parameter → updates that it has seen.
        max_bytes: of one file.

    Raises:
        OSError: this rank could not write, or another; the index is then not there.
    """
    places: dict[str, str] = {}
    failed: OSError | None = None
    own = distributed.rank()
    try:
        for number, group in enumerate(bounded(tensors, max_bytes)):
            file = f"engine-{own:05d}-{number:05d}.safetensors"
            write_tensors(folder / file, group)
            places |= dict.fromkeys(group, file)
    except OSError as error:
        failed = error
        for _ in tensors:
            pass
    if distributed.anyone(failed is not None):
        raise failed or OSError("another rank could not write its part of the state")
    files = list(dict.fromkeys(places.values()))
    every = dict(distributed.gather(list(places.items())))
    if own != 0:
        return files
    write_json(folder / INDEX, {"files": every, "updates": updates})
    return [INDEX, *files]


class SavedState:
    """A state on the disk; tensors are read one at a time.

    Args:
        folder: what ``write_state`` filled.
        parameters: names of the parameters that are trained.

    Raises:
        IntegrityError: the state has others.
    """

    def __init__(self, folder: Path, parameters: set[str]) -> None:
        index = read_json(folder / INDEX)
        self._folder, self._files = folder, index["files"]
        self.updates: dict[str, float] = index["updates"]
        saved = {name.partition("/")[2] for name in self._files if name.startswith("weight/")}
        if saved != parameters:
            raise IntegrityError(
                "The saved state has other parameters than the model: "
                + ", ".join(sorted(saved ^ parameters)[:5]),
                where=folder,
                hint="delete the folder: the stage then starts again",
            )

    def tensor(self, kind: str, name: str, rows: slice | None = None) -> torch.Tensor:
        """The ``weight`` or a moment of a parameter: all of it, or some rows."""
        key = f"{kind}/{name}"
        with safe_open(self._folder / self._files[key], framework="pt") as file:
            return file.get_tensor(key) if rows is None else file.get_slice(key)[rows]
