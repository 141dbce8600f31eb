"""An exponential moving average of the trained weights, beside those that go on training.

After each update a ← d·a + (1 − d)·w, from the weights that training starts from on; there is no
correction for that start. Averages of weights: Polyak & Juditsky 1992; this one, of PPO's actor:
DeepSpeed-Chat.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from rlhf.training.engine.protocol import Engine


class Ema:
    """The averages, in float32, of tensors as an engine's optimizer holds them: whole or in slices.

    Args:
        held: what the optimizer updates; each once, however often it is named.
        decay: d.
    """

    def __init__(self, held: Iterable[Any], decay: float) -> None:
        self._decay = decay
        self._averages = {each: each.detach().clone() for each in dict.fromkeys(held)}

    def of(self, held: Any) -> Any:
        """The average of a tensor, which lies as it does; None: it has none."""
        return self._averages.get(held)

    @torch.no_grad()
    def update(self) -> None:
        """Once after each update of the weights."""
        for held, average in self._averages.items():
            _local(average).lerp_(_local(held), 1 - self._decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange averages and weights, in place and to the bit."""
        for held, average in self._averages.items():
            weights = _local(held).clone()
            _local(held).copy_(_local(average))
            _local(average).copy_(weights)


def average_of(ema: Ema | None, held: Any) -> Any:
    """The average of what the optimizer updates, or None."""
    return ema.of(held) if ema else None


@contextmanager
def averaged(engine: Engine) -> Iterator[None]:
    """The averaged weights in place of the trained ones, where the engine keeps an average."""
    engine.swap_average()
    try:
        yield
    finally:
        engine.swap_average()


def _local(tensor: Any) -> torch.Tensor:
    """A rank's own slice of what FSDP has cut."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor.detach()
