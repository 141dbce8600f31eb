"""How many shapes of products torch remembers on a CPU.

oneDNN, which computes them in bfloat16, keeps a program for each shape that it met, a thousand at
most. Sequences have so many lengths that these took gigabytes.
"""

from __future__ import annotations

import os

CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
KEPT = "64"


def limit_onednn_cache() -> dict[str, str]:
    """Environment of a process that remembers few, unless its caller says how many."""
    return {name: os.environ.get(name, KEPT) for name in CACHES}
