"""A model over several GPUs, for inference: which of its layers are on which.

Layers go whole and in order. All else stays on the first GPU: embeddings, norms and the output
head, which may be the embeddings. So token ids go in there, and hidden states and logits come out.
accelerate loads a model by such a map, each tensor from its file to its GPU, and takes what
passes through the layers from one GPU to the next.

Model servers run a copy of this file, without the rest of the package.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

FULL = 0.9  # of a GPU's free memory, by weights
_HALVINGS = 30


class TooLargeError(ValueError):
    """The GPUs have no room for a model; says how much it needs, and how much there is."""


def share_out(other: float, layers: Sequence[float], rooms: Sequence[float]) -> list[int] | None:
    """The GPU of each layer; None: they don't fit.

    The first GPU alone, if all fits there; else equal shares of each GPU's room are filled.

    Args:
        other: bytes outside of the layers, which the first GPU has.
        layers: bytes of each layer, in order.
        rooms: bytes that each GPU can take.
    """
    if other + sum(layers) <= rooms[0]:
        return [0] * len(layers)
    found = _filled(other, layers, rooms)
    low, high = 0.0, 1.0  # shares of their room with which they don't fit, and do
    for _ in range(_HALVINGS if found else 0):
        share = (low + high) / 2
        places = _filled(other, layers, [share * room for room in rooms])
        low, high, found = (share, high, found) if places is None else (low, share, places)
    return found


def _filled(other: float, layers: Sequence[float], rooms: Sequence[float]) -> list[int] | None:
    """As ``share_out``: each GPU takes layers for as long as it has room."""
    places: list[int] = []
    gpu, used = 0, other
    if used > rooms[0]:
        return None
    for size in layers:
        while used + size > rooms[gpu]:
            gpu, used = gpu + 1, 0.0
            if gpu == len(rooms):
                return None
        places.append(gpu)
        used += size
    return places


def device_map(
    loader: Any, folder: Any, dtype: Any, rooms: Sequence[float], trusted: bool = False
) -> dict[str, int]:
    """Module → GPU, as ``from_pretrained`` takes it; no weights are read.

    Args:
        loader: one of transformers' ``AutoModel…`` classes.
        folder: the model's.
        dtype: torch type of the weights.
        rooms: bytes that each GPU can take.
        trusted: whether the code that it brings may run.

    Raises:
        TooLargeError: the GPUs have no room for it.
    """
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(
        folder, local_files_only=True, trust_remote_code=trusted
    )
    with torch.device("meta"):
        model = loader.from_config(config, dtype=dtype, trust_remote_code=trusted)
    model.tie_weights()
    stacks = [m for m in model.base_model.modules() if isinstance(m, torch.nn.ModuleList)]
    stack = max(stacks, key=len)
    layers = [_bytes(layer) for layer in stack]
    total = _bytes(model)
    places = share_out(total - sum(layers), layers, rooms)
    if places is None:
        have = " + ".join(f"{room / 1e9:.3g}" for room in rooms)
        raise TooLargeError(
            f"its weights have {total / 1e9:.3g} GB in {str(dtype).removeprefix('torch.')}, "
            f"and there is room for {have} GB"
        )
    if not any(places):
        return {"": 0}
    (prefix,) = (name for name, module in model.named_modules() if module is stack)
    on_layers = {f"{prefix}.{number}": gpu for number, gpu in enumerate(places)}
    return dict.fromkeys(_outside(model, stack), 0) | on_layers


def free_rooms() -> list[float]:
    """Bytes of weights that each GPU of this process can take."""
    import torch

    gpus = range(torch.cuda.device_count())
    return [FULL * torch.cuda.mem_get_info(gpu)[0] for gpu in gpus]


def _bytes(module: Any) -> int:
    """Of its tensors; those that are tied are one."""
    tensors = (*module.parameters(), *module.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _outside(module: Any, stack: Any, prefix: str = "") -> Iterator[str]:
    """Names of the largest modules, and of tensors, that don't hold the layers."""
    own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    yield from (f"{prefix}{name}" for name, _ in own)
    for name, child in module.named_children():
        if child is stack:
            continue
        if any(inner is stack for inner in child.modules()):
            yield from _outside(child, stack, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
