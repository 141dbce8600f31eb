"""Seeds and random states, so that two runs, or one run in two parts, are the same run."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from rlhf.core.seeds import derived_seed


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch; on a CPU, use deterministic kernels where there is a choice."""
    random.seed(derived_seed(seed, "python"))
    np.random.seed(derived_seed(seed, "numpy") % 2**32)  # it takes 32 bits
    torch.manual_seed(derived_seed(seed, "torch"))
    if not torch.cuda.is_available() and not torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(True, warn_only=True)


def seed_pass(seed: int, *counters: int) -> None:
    """Seed torch for one pass that draws, such as dropout: the same in a run that goes on.

    Args:
        seed: the run's.
        counters: tell its passes apart: step, micro-batch, rank.
    """
    torch.manual_seed(derived_seed(seed, "draws of a pass", *counters))


def only_deterministic() -> None:
    """Use deterministic kernels alone: an operation that has none is an error.

    On a GPU it is slower, and needs ``CUBLAS_WORKSPACE_CONFIG``, which the launcher sets.
    """
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def random_state() -> dict[str, Any]:
    """Every generator's state, as plain values and tensors."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    words = np.asarray(keys).astype(np.int64)
    state: dict[str, Any] = {
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(words), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Put every generator back to a state from ``random_state``."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
