"""The tensors of a root by name: those that are trained, and those that are published."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn


def trained(root: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name and parameter of all that is trained, tied ones once."""
    for name, parameter in root.named_parameters():
        if parameter.requires_grad:
            yield name, parameter


def followers(root: nn.Module) -> Iterator[tuple[str, Any, Any]]:
    """Name of each parameter that follows a trained one, it, and the one that it follows.

    A root says which: ``follows``, from prefixes of their names to those of the others.
    """
    every = dict(root.named_parameters())
    for prefix, other in getattr(root, "follows", {}).items():
        for name, parameter in every.items():
            if name.startswith(prefix):
                yield name, parameter, every[other + name.removeprefix(prefix)]


def changing(root: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name and parameter of all that is part of a state: trained, or following what is."""
    yield from trained(root)
    for name, parameter, _ in followers(root):
        yield name, parameter


def drop_others(root: nn.Module, only: str) -> None:
    """Drop the gradients of all parameters whose names do not begin with ``only``."""
    for name, parameter in trained(root):
        if not name.startswith(only):
            parameter.grad = None


def published(
    root: nn.Module,
    whole: Callable[[torch.Tensor], torch.Tensor],
    dtype: torch.dtype | None = None,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and whole tensor of all parameters, tied ones by their first name, and saved buffers.

    Args:
        root: the module that is trained.
        whole: from a tensor as the engine keeps it to the whole one, without a gradient.
        dtype: type of what is floating-point; None: as it is.
    """
    own = {id(parameter): name for name, parameter in root.named_parameters()}
    for name, tensor in root.state_dict(keep_vars=True).items():
        if own.get(id(tensor), name) == name:
            value = whole(tensor)
            narrowed = dtype is not None and value.is_floating_point()
            yield name, value.to(dtype) if narrowed else value
