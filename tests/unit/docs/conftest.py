from __future__ import annotations

import sys
from pathlib import Path

import pytest

for folder in ("training", "ppo"):  # tiny_models, tiny_ppo
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))


@pytest.fixture(autouse=True)
def always_leave_no_trace(leave_no_trace: None) -> None:
    """Some tests here train."""
