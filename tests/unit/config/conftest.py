from __future__ import annotations

import copy
from typing import Any

import pytest
from support.valid_config import VALID


@pytest.fixture
def valid() -> dict[str, Any]:
    return copy.deepcopy(VALID)
