"""Tests of what a GPU computes. On a machine without one they are left out, and counted."""

from __future__ import annotations

import pytest
import torch

from rlhf.runtime import gpus


@pytest.fixture(autouse=True)
def _gpu() -> None:
    if torch.cuda.is_available():
        return
    if gpus.count():
        pytest.fail(f"this machine has GPUs, and torch {torch.__version__} can use none of them: "
                    f"it is built for CUDA {torch.version.cuda}; {gpus.driver()}")  # fmt: skip
    pytest.skip("no GPU here, and kernels of a CPU say nothing of those that a GPU would run")
