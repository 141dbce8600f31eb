"""How fast a run is and where its time goes: ``perf.jsonl`` beside the log. No torch in here."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Dense bfloat16 products per second, as the makers' data sheets give them; the first that fits.
_PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "GH200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10G": 70e12,
    "A10": 125e12,
    "MI300X": 1307e12,
    "MI250": 362e12,
}


def peak_flops(gpu: str) -> float | None:
    """Peak of a GPU in bfloat16, in operations per second; None where its name is not known."""
    return next((peak for name, peak in _PEAKS.items() if name in gpu), None)


@dataclass(frozen=True)
class Gpus:
    """The GPUs of a run.

    Attributes:
        count: on all ranks.
        peak: of one, in operations per second; None if it is not known.
        parameters: that are trained.
    """

    count: int
    peak: float | None
    parameters: int


class Performance:
    """Seconds by phase, and the figures of each step.

    A GPU works on after its work was handed over: a phase has the seconds until the next number
    was asked for.

    Args:
        path: lines are added to this file; None: nothing is written.
        gpus: what the run computes on; None: CPUs.
    """

    def __init__(self, path: Path | None, gpus: Gpus | None = None) -> None:
        self._path, self._gpus = path, gpus
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what is done inside; a phase inside of another counts in both."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] += time.monotonic() - began

    def figures(
        self, seconds: float, tokens: int, trained: int, peak_bytes: int
    ) -> dict[str, float]:
        """Figures of a step; its phases begin anew.

        Args:
            seconds: the step's, without saving.
            tokens: that it went over, on all ranks.
            trained: tokens of its forward and backward passes, on all ranks.
            peak_bytes: most memory so far.
        """
        per_second = 1 / max(seconds, 1e-9)
        found = {
            "speed/step_seconds": seconds,
            "speed/tokens_per_second": tokens * per_second,
            "speed/peak_memory_gb": peak_bytes / 1e9,
        }
        if gpus := self._gpus:
            found["speed/tokens_per_second_per_gpu"] = tokens * per_second / gpus.count
            if gpus.peak:
                done = 6 * gpus.parameters * trained * per_second
                found["speed/mfu"] = done / (gpus.count * gpus.peak)
        found |= {f"seconds/{name}": spent for name, spent in self._seconds.items()}
        self._seconds.clear()
        return found

    def write(self, record: dict[str, Any]) -> None:
        """Add a line; a full disk costs the figures and not the run."""
        if self._path is not None:
            try:
                with self._path.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(record) + "\n")
            except OSError:
                self._path = None
