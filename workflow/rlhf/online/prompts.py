"""The stream of prompts: epoch after epoch, each in its own order, resumable anywhere."""

from __future__ import annotations

from typing import Any

from rlhf.data.mixture import Mixture


class PromptStream:
    """An endless stream over tokenized prompts.

    Args:
        data: tokenized prompts.
        seed: seed of the order.
    """

    def __init__(self, data: Mixture, seed: int) -> None:
        self._data, self._seed = data, seed
        self._epoch, self._position = 0, 0
        self._order = data.order(seed, 0)

    def __len__(self) -> int:
        """Prompts in the data."""
        return len(self._data)

    def take(self, count: int) -> list[dict[str, Any]]:
        """The next ``count`` rows of the data."""
        taken: list[dict[str, Any]] = []
        while len(taken) < count:
            if self._position == len(self._order):
                self._epoch, self._position = self._epoch + 1, 0
                self._order = self._data.order(self._seed, self._epoch)
            taken.append(self._data[int(self._order[self._position])])
            self._position += 1
        return taken

    def state(self) -> dict[str, Any]:
        """For the saved state."""
        return {"epoch": self._epoch, "position": self._position}

    def load(self, state: dict[str, Any]) -> None:
        """From a saved state."""
        self._epoch, self._position = state["epoch"], state["position"]
        self._order = self._data.order(self._seed, self._epoch)
