"""Mixed precision: matrix products and attention in bfloat16, all else in float32.

Weights, their gradients, the optimizer and what is computed from a model's outputs stay in float32
(Micikevicius et al. 2018, arXiv 1710.03740; bfloat16 has float32's range, so no loss is scaled).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def is_narrow(dtype: torch.dtype | None) -> bool:
    """Whether matrix products of this type are narrower than float32; None: they are not."""
    return dtype not in (None, torch.float32)


def products(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Matrix products of ``dtype``; None: of the type of the weights.

    Around every forward pass, and around nothing else: narrow weights are kept to its end.
    """
    return torch.autocast(device.type, dtype) if is_narrow(dtype) else nullcontext()
