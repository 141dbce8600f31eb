"""Which type an engine holds each weight in.

What is trained is float32, and so is all that is computed in float32: embeddings, norms, scores.
Matrices that nothing trains are read by matrix products alone, which take them in a narrow type:
held in it they need half the memory, and every product is what it would be.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from rlhf.models.backbone import Backbone, backbones
from rlhf.models.precision import is_narrow

Types = dict[nn.Parameter, torch.dtype]


def narrow_types(root: nn.Module, device: torch.device) -> Types:
    """Frozen matrices of the body, and the head if it is one of its own → their narrow type.

    On a CPU none of a model that is trained in part: responses are sampled from it as it is, and
    what it publishes of its frozen weights are the bytes that it started from.

    Args:
        root: trained in part, or not at all.
        device: computes.
    """
    if device.type == "cpu" and any(p.requires_grad for p in root.parameters()):
        return {}
    return {
        parameter: backbone.product_dtype
        for backbone in backbones(root)
        if is_narrow(backbone.product_dtype)
        for matrix in _matrices(backbone)
        if not any(p.requires_grad for p in matrix.parameters(recurse=False))
        for parameter in matrix.parameters(recurse=False)
        if parameter.is_floating_point()
    }


def _matrices(backbone: Backbone) -> Iterator[nn.Module]:
    from transformers.pytorch_utils import Conv1D

    body = backbone.model.base_model
    yield from (module for module in body.modules() if isinstance(module, nn.Linear | Conv1D))
    _, head = untied_ends(backbone)
    if head is not None:
        yield head


def untied_ends(backbone: Backbone) -> tuple[Any, Any]:
    """The embeddings and the output head of a model; None where there is none of its own.

    A head that is tied to the embeddings is not: the two are one weight.
    """
    embeddings = backbone.model.get_input_embeddings()
    head = backbone.model.get_output_embeddings()
    if head is not None and head.weight is embeddings.weight:
        return None, None
    return embeddings, head


def place(root: nn.Module, device: torch.device) -> None:
    """Move a whole model to a device, each weight in its type, buffers in float32."""
    types = narrow_types(root, device)
    for parameter in root.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(device, types.get(parameter, torch.float32))
    root.to(device)
    for buffer in root.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.data.to(torch.float32)
