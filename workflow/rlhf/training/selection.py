"""Which of the validated weights are the best, and whether training ends early.

Validations of trained weights count, not the one before training. Prechelt 1998, "Early stopping,
but when?", has this criterion as UP: so many validations in a row without a gain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rlhf.config.offline import SelectionConfig
from rlhf.errors import ConfigError

FALLING = ("loss", "cross_entropy")  # figures that are better when they are smaller


class Selection:
    """What the validations of a run have come to; the same on every rank.

    Args:
        config: the run's.
        run: its name, for messages.

    Attributes:
        best_step: steps after which the figure was best; None: nothing was validated.
        waited: validations since the last gain.
    """

    def __init__(self, config: SelectionConfig, run: str) -> None:
        self._config, self._run = config, run
        self._best = self._mark = -math.inf  # in the direction in which the figure gets better
        self.best_step: int | None = None
        self.waited = 0

    @property
    def stopped(self) -> bool:
        """Whether patience has come to its end."""
        return self._config.patience is not None and self.waited >= self._config.patience

    @property
    def kept_step(self) -> int | None:
        """Steps after which the weights are those to publish; None: the last ones are."""
        return self.best_step if self._config.keep == "best" else None

    def check(self, measures: Mapping[str, float]) -> None:
        """Refuse a run whose validations do not have the figure.

        Args:
            measures: of the first validation.

        Raises:
            ConfigError: they don't.
        """
        name = self._config.measure
        if self._config.looks and name not in measures:
            raise ConfigError(
                f"Validations do not measure {name}."
                if measures
                else "There are no held-out rows to choose weights by.",
                where=f"{self._run}: selection.measure",
                expected=f"one of {', '.join(sorted(measures))}" if measures else "held-out rows",
                hint="name one of them"
                if measures
                else "give the datasets a validation_fraction, or leave selection out",
            )

    def note(self, step: int, measures: Mapping[str, float]) -> bool:
        """Take a validation in.

        Args:
            step: steps done.
            measures: its figures.

        Returns:
            Whether these are now the weights to keep.
        """
        if not self._config.looks:
            return False
        value = measures[self._config.measure]
        falling = self._config.measure.partition("/")[0].endswith(FALLING)
        value = -value if falling else value
        gain = value - self._mark
        if gain > 0 and gain >= self._config.minimum_gain:
            self._mark, self.waited = value, 0
        else:
            self.waited += 1
        if value <= self._best:
            return False
        self._best, self.best_step = value, step
        return self._config.keep == "best"

    def state(self) -> dict[str, Any]:
        """What to save."""
        return {
            "best": self._best,
            "mark": self._mark,
            "step": self.best_step,
            "waited": self.waited,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what was saved."""
        self._best, self._mark = state["best"], state["mark"]
        self.best_step, self.waited = state["step"], state["waited"]
