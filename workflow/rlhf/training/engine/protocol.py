"""The one interface between what is learned and how its weights are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from rlhf.models.backbone import Backbone
from rlhf.training.engine.scale import LossScale

Root = TypeVar("Root", bound=Backbone)
Forward = Callable[..., tuple[torch.Tensor, ...]]  # a root, or an engine around one


class Engine(Protocol):
    """Holds a root module, its optimizer and its ranks.

    All ranks call the same methods in the same order. An update is::

        for batch in rounds:
            out = engine(*batch)
            engine.backward(loss(out) / global_weight, last=batch is rounds[-1])
        norm = engine.step(learning_rate_factor(...))
    """

    device: torch.device
    sharded: bool  # a rank holds a part of each tensor, and passes are made together
    loss_scale: LossScale | None  # of float16's gradients; others need none

    def __call__(self, *batch: Any, **options: Any) -> tuple[torch.Tensor, ...]:
        """The root's forward pass, in its precision."""

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add to the gradients.

        Args:
            loss: this micro-batch's share of the mean over the global batch: gradients are sums
                over micro-batches and ranks.
            last: whether it is the last one before ``step``.
        """

    def step(self, factor: float, only: str = "") -> float:
        """Clip, update with the peak learning rates times ``factor``, clear the gradients.

        Args:
            factor: of the learning rates.
            only: prefix of the names of the parameters that are updated; of all others gradients
                are dropped, and neither weights nor moments change.

        Returns:
            The global norm before clipping. If it is not finite nothing was updated; with a
            ``loss_scale``, the next update has a smaller one.
        """

    def follow(self, share: float) -> None:
        """Move each parameter that follows a trained one: t ← (1 − share)·t + share·w.

        Polyak averaging, of a root that names such parameters (``named.followers``).

        Args:
            share: what it takes over of the other, in (0, 1].
        """

    def frozen(self, root: Root) -> Root:
        """Keep a model in the same way, never trained: a reference, a reward model.

        It is changed in place; the ranks call it equally often.
        """

    def keep_average(self, decay: float, prefix: str = "") -> None:
        """Keep a moving average of the trained weights from here on, in every state too (``Ema``).

        Args:
            decay: of the average in an update.
            prefix: of the names of those that are averaged.
        """

    def swap_average(self) -> None:
        """Exchange the trained weights and their moving average; without one nothing happens."""

    def parts(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What this rank holds of every trained parameter, by name; not collective."""

    def weights(self, dtype: torch.dtype | None = None) -> Iterator[tuple[str, torch.Tensor]]:
        """Collective: whole tensors one at a time, by their names in the root.

        All parameters, tied ones once, and the buffers that belong to a saved model.

        Args:
            dtype: type of what is floating-point; None: as it is.
        """

    def save(self, folder: Path) -> list[str]:
        """Collective: write trained weights, what follows them, averages and the optimizer's state.

        Returns:
            Names of the files that this rank wrote.

        Raises:
            OSError: the disk is full, for one.
        """

    def load(self, folder: Path) -> None:
        """Collective: put back what ``save`` wrote, by any kind and number of ranks.

        Raises:
            IntegrityError: the state has other parameters than the root.
        """
