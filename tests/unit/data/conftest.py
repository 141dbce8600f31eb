"""What becomes of objects that a file holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def rows_of(write_lines: Callable[..., Path]) -> Callable[..., Any]:
    """(format, objects, options) → the rows that a file of these objects becomes."""

    def rows_of(name: str, *records: Any, **options: Any) -> Any:
        from rlhf.data.formats.source import load

        return load(name, write_lines(*records), options)

    return rows_of


@pytest.fixture
def read(write_lines: Callable[..., Path]) -> Callable[..., tuple[Any, list[Any]]]:
    """(format, objects, options) → what was counted, and the rows."""

    def read(name: str, *records: Any, **options: Any) -> tuple[Any, list[Any]]:
        from rlhf.data.formats.source import Source

        source = Source(name, write_lines(*records), options)
        return source.faults, list(source)

    return read
