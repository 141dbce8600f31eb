"""Mixed precision: matrix products and attention in bfloat16 or float16, all else in float32.

Weights, their gradients, the optimizer and what is computed from a model's outputs stay in float32
(Micikevicius et al. 2018, arXiv 1710.03740). bfloat16 has float32's range; float16 has not, so an
engine scales the loss then (``training.engine.scale``).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn import functional as F


def is_narrow(dtype: torch.dtype | None) -> bool:
    """Whether matrix products of this type are narrower than float32; None: they are not."""
    return dtype not in (None, torch.float32)


def products(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Matrix products of ``dtype``; None: of the type of the weights.

    Around every forward pass, and around nothing else: narrow weights are kept to its end.
    """
    return torch.autocast(device.type, dtype) if is_narrow(dtype) else nullcontext()


def exact_float32() -> None:
    """Let float32 mean float32 on GPUs: no TensorFloat-32, whatever the environment asks for.

    Its products have eleven bits. NVIDIA's images switch it on by a variable, so equal
    configurations would differ from machine to machine.
    """
    # These keep torch's older and newer settings in agreement: libraries read one or the other.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def wide_linear(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """h Wᵀ + b in float32, from matrices of one type.

    Products of narrow matrices are summed in float32 anyhow. A GPU gives these sums as they are;
    a CPU rounds them to the narrow type.
    """
    if _gives_wide(hidden):
        made = torch.mm(hidden, weight.t(), out_dtype=torch.float32)
        return made if bias is None else made.add_(bias)
    return F.linear(hidden, weight, bias).float()


def add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add the product of two matrices of one type to a float32 sum; see ``wide_linear``."""
    if _gives_wide(left):
        total += torch.mm(left, right, out_dtype=torch.float32)
    elif left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += torch.mm(left, right)


def _gives_wide(matrix: torch.Tensor) -> bool:
    return matrix.is_cuda and matrix.dtype in (torch.bfloat16, torch.float16)
