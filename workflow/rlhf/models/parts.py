"""Tensors in safetensors files of bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file


def bounded(
    tensors: Iterable[tuple[str, torch.Tensor]], max_bytes: int
) -> Iterator[dict[str, torch.Tensor]]:
    """The tensors in groups of at most ``max_bytes``, or of one tensor, in the order given."""
    group: dict[str, torch.Tensor] = {}
    size = 0
    for name, tensor in tensors:
        if group and size + tensor.nbytes > max_bytes:
            yield group
            group, size = {}, 0
        group[name] = tensor.detach().to("cpu").contiguous()
        size += tensor.nbytes
    if group:
        yield group


def write_tensors(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write one safetensors file.

    Raises:
        OSError: the disk is full, for one.
    """
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:  # a full disk arrives as this
        raise OSError(str(error)) from error
