"""Mixed precision: matrix products and attention in bfloat16, all else in float32.

Weights, their gradients, the optimizer and what is computed from a model's outputs stay in float32
(Micikevicius et al. 2018, arXiv 1710.03740; bfloat16 has float32's range, so no loss is scaled).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def use_precision(model: PreTrainedModel, precision: str) -> None:
    """Choose the type of a model's matrix products: ``bfloat16`` or ``float32``.

    Sampling is as it was: it takes one token a row at a time, and making narrow weights of wide
    ones would cost as much.
    """
    cast(Any, model).product_type = getattr(torch, precision)


def product_type(model: PreTrainedModel) -> torch.dtype | None:
    """The type of a model's matrix products, if it was chosen; else it is that of its weights."""
    return getattr(model, "product_type", None)


def products(model: PreTrainedModel) -> AbstractContextManager[object]:
    """Around every forward pass, and around nothing else: narrow weights are kept to its end."""
    chosen = product_type(model)
    if chosen in (None, torch.float32):
        return nullcontext()
    return torch.autocast(model.device.type, chosen)
