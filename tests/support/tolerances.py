"""How far apart two right computations may be: from the type and the length of the sums.

Two orders of one sum of n products differ by about √n · ε of what is summed (Higham, Accuracy and
Stability of Numerical Algorithms, sections 2.8 and 3.1). Which order is taken depends on the
processor's vector units, the number of threads and the libraries, so tests allow for all of them.
"""

from __future__ import annotations

import math
from typing import Any

import torch

ROOM = 8  # sums cancel: what is summed may be larger than what comes of it
# Products on the longest way through `tiny_models`: for each of two layers four projections of 32,
# attention over some 40 positions of 8, and an MLP of 32 and 64; then the head.
TINY = 2 * (4 * 32 + 40 + 8 + 32 + 64) + 32


def rounding(terms: int = TINY, dtype: torch.dtype = torch.float32) -> float:
    """Relative difference of two sums of so many products that is put down to their order."""
    return ROOM * torch.finfo(dtype).eps * math.sqrt(terms)


def assert_near(found: Any, expected: Any, terms: int = TINY, least: float = 1.0) -> None:
    """Equal up to rounding.

    Args:
        found: numbers: a tensor, an array, a list or one.
        expected: as many.
        terms: products in the sums that they come of.
        least: size of what was summed, where results are smaller: states and logits are about 1.
    """
    found, expected = (torch.as_tensor(one).detach() for one in (found, expected))
    scale = max(least, float(expected.abs().max())) if expected.numel() else least
    torch.testing.assert_close(
        found, expected, atol=rounding(terms) * scale, rtol=0, check_dtype=False
    )


def assert_gradients_near(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], terms: int = TINY
) -> None:
    """Equal up to rounding, of the largest of all: a small gradient is a sum of larger ones."""
    assert found.keys() == expected.keys()
    scale = max(float(one.abs().max()) for one in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, atol=rounding(terms) * scale, rtol=rounding(terms), msg=name
        )
