"""How an engine's state lies on the disk: the same for every kind and number of ranks.

Whole tensors by parameter name in safetensors files of bounded size, and ``engine.json``: which
file holds which tensor, how many updates each parameter has seen, and the loss scale. Digests and
the seal are the checkpoint's (``training.checkpoints``), which holds these files beside its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from rlhf.core.files import read_json, write_json
from rlhf.errors import IntegrityError
from rlhf.models.parts import bounded, write_tensors
from rlhf.training import distributed
from rlhf.training.engine.scale import LossScale

INDEX = "engine.json"
MAX_BYTES = 2**31
MOMENTS = ("exp_avg", "exp_avg_sq")
NARROW_MOMENTS = ("state1", "state2", "absmax1", "absmax2")  # in 8 bits, and their scales
AVERAGE = "average"


@dataclass(frozen=True)
class ParameterState:
    """What is saved of a trained parameter, as its engine keeps it.

    Attributes:
        name: the parameter's.
        numbers: how many it has, on all ranks together.
        tensors: ``weight``, its moving ``average`` if the run has one, and ``exp_avg`` and
            ``exp_avg_sq`` once it was updated; or these two in 8 bits.
        updates: how many it has seen; None: none.
    """

    name: str
    numbers: int
    tensors: Mapping[str, torch.Tensor]
    updates: float | None

    @classmethod
    def of(
        cls,
        name: str,
        numbers: int,
        weight: torch.Tensor,
        state: Mapping[str, torch.Tensor],
        average: torch.Tensor | None = None,
    ) -> ParameterState:
        """From the weight, the optimizer's state of it, which may be empty, and its average."""
        kinds = (kind for kind in (*MOMENTS, *NARROW_MOMENTS) if kind in state)
        tensors = {"weight": weight} | {kind: state[kind] for kind in kinds}
        if average is not None:
            tensors[AVERAGE] = average
        updates = float(state["step"]) if state else None
        return cls(name, numbers, tensors, updates)


def write_state(
    folder: Path,
    parameters: Iterable[ParameterState],
    whole: Callable[[str, torch.Tensor], torch.Tensor] = lambda _name, tensor: tensor,
    max_bytes: int = MAX_BYTES,
    loss_scale: LossScale | None = None,
) -> list[str]:
    """Collective: write a state, of which every rank writes a part; the names of its files.

    Args:
        folder: where to.
        parameters: the same on all ranks, in the same order.
        whole: collective: from a parameter's name and one of its tensors, as its engine keeps it,
            to the whole tensor. It is called for every tensor, whoever writes it.
        max_bytes: of one file.
        loss_scale: the engine's, if it has one.

    Raises:
        OSError: this rank could not write, or another; the index is then not there.
    """
    own, held = distributed.rank(), [0] * distributed.world_size()
    updates: dict[str, float] = {}

    def written_here() -> Iterator[tuple[str, torch.Tensor]]:
        for parameter in parameters:
            writer = held.index(min(held))
            held[writer] += parameter.numbers
            if parameter.updates is not None:
                updates[parameter.name] = parameter.updates
            for kind, tensor in parameter.tensors.items():
                value = whole(parameter.name, tensor)
                if writer == own:
                    yield f"{kind}/{parameter.name}", value

    tensors, places = written_here(), dict[str, str]()
    failed: OSError | None = None
    try:
        for number, group in enumerate(bounded(tensors, max_bytes)):
            file = f"engine-{own:05d}-{number:05d}.safetensors"
            write_tensors(folder / file, group)
            places |= dict.fromkeys(group, file)
    except OSError as error:
        failed = error
        for _ in tensors:  # the other ranks need this one's parts
            pass
    if distributed.anyone(failed is not None):
        raise failed or OSError("another rank could not write its part of the state")
    files = list(dict.fromkeys(places.values()))
    every = dict(distributed.gather(list(places.items())))
    if own != 0:
        return files
    scale = loss_scale.state() if loss_scale else None
    write_json(folder / INDEX, {"files": every, "updates": updates, "loss_scale": scale})
    return [INDEX, *files]


class SavedState:
    """A state on the disk; tensors are read one at a time.

    Args:
        folder: what ``write_state`` filled.
        shapes: name of each parameter that is trained → its whole shape.

    Raises:
        IntegrityError: the state has others.
    """

    def __init__(self, folder: Path, shapes: Mapping[str, Sequence[int]]) -> None:
        index = read_json(folder / INDEX)
        self._folder, self._files = folder, index["files"]
        self.updates: dict[str, float] = index["updates"]
        scale = index.get("loss_scale")
        self.loss_scale = LossScale(**scale) if scale else None
        saved = {name.partition("/")[2] for name in self._files if name.startswith("weight/")}
        wrong = sorted(saved ^ shapes.keys()) or [
            f"{name} is {self._shape(name)}, not {list(shape)}"
            for name, shape in shapes.items()
            if self._shape(name) != list(shape)
        ]
        if wrong:
            raise IntegrityError(
                "The saved state has other parameters than the model: " + ", ".join(wrong[:5]),
                where=folder,
                hint="delete the folder: the stage then starts again",
            )

    def _shape(self, name: str) -> list[int]:
        key = f"weight/{name}"
        with safe_open(self._folder / self._files[key], framework="pt") as file:
            return file.get_slice(key).get_shape()

    def moments(self, name: str) -> dict[str, torch.Tensor]:
        """The moments of a parameter, whole, as its optimizer calls them."""
        kinds = (*MOMENTS, *NARROW_MOMENTS)
        return {kind: self.tensor(kind, name) for kind in kinds if f"{kind}/{name}" in self._files}

    def tensor(self, kind: str, name: str, rows: slice | None = None) -> torch.Tensor:
        """The ``weight``, ``average`` or a moment of a parameter: all of it, or some rows."""
        key = f"{kind}/{name}"
        with safe_open(self._folder / self._files[key], framework="pt") as file:
            return file.get_tensor(key) if rows is None else file.get_slice(key)[rows]
