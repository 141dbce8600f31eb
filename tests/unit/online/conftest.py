from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def always_leave_no_trace(leave_no_trace: None) -> None:
    """Every test here trains."""
