"""Named random streams: every draw of the product comes from a generator that is made here.

The name of the purpose is hashed into the seed. Seeds put together from numbers alone collide:
numpy pads them with zeros, so ``[7, 3]`` and ``[7, 3, 0, 0]`` are one stream.
"""

from __future__ import annotations

import hashlib
import json
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """The random stream of one purpose, independent of those of all others.

    Args:
        seed: seed of the run.
        purpose: what is drawn; no two uses share a name.
        counters: tell the streams of one purpose apart, such as update, epoch and rank.
    """
    import numpy as np

    return np.random.default_rng(int.from_bytes(_digest(seed, purpose, counters), "big"))


def derived_seed(seed: int, purpose: str, *counters: int) -> int:
    """A seed of 64 bits for a generator that is not numpy's; arguments as in `generator`."""
    return int.from_bytes(_digest(seed, purpose, counters)[:8], "big")


def row_draws(seed: int, purpose: str, row: str) -> Random:
    """Random numbers that belong to one row: the same in any order, on any number of workers.

    Python's generator hashes a text. Open-Assistant draws from one too, so what it writes can be
    compared byte for byte.
    """
    return Random(f"{seed}/{purpose}/{row}")


def _digest(seed: int, purpose: str, counters: tuple[int, ...]) -> bytes:
    return hashlib.sha256(json.dumps([seed, purpose, *counters]).encode()).digest()
