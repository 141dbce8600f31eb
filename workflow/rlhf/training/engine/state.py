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

INDEX = "engine.json"
MAX_BYTES = 2**31
MOMENTS = ("exp_avg", "exp_avg_sq")


def write_state(
    folder: Path,
    tensors: Iterator[tuple[str, torch.Tensor]],
    updates: dict[str, float],
    max_bytes: int = MAX_BYTES,
) -> list[str]:
    """Write tensors and index; returns the names of the files.

    Args:
        folder: where to.
        tensors: ``weight/NAME``, and ``exp_avg/NAME`` and ``exp_avg_sq/NAME`` where a parameter
            was updated.
        updates: parameter → updates that it has seen.
        max_bytes: of one file.
    """
    places: dict[str, str] = {}
    for number, group in enumerate(bounded(tensors, max_bytes)):
        file = f"engine-{number:05d}.safetensors"
        write_tensors(folder / file, group)
        places |= dict.fromkeys(group, file)
    write_json(folder / INDEX, {"files": places, "updates": updates})
    return [INDEX, *dict.fromkeys(places.values())]


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

    def tensor(self, kind: str, name: str) -> torch.Tensor:
        """A whole tensor: the ``weight`` or a moment of a parameter."""
        key = f"{kind}/{name}"
        with safe_open(self._folder / self._files[key], framework="pt") as file:
            return file.get_tensor(key)
