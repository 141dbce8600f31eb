from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tiny_ppo, and scripts of ranks


@pytest.fixture(autouse=True)
def always_leave_no_trace(leave_no_trace: None) -> None:
    """Every test here trains."""
