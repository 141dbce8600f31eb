"""What tests run as processes of their own."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent


def python_path() -> str:
    """The PYTHONPATH with which ``python -m NAME`` finds these programs, and they what they use."""
    paths = [str(FOLDER), str(FOLDER.parents[1]), os.environ.get("PYTHONPATH")]
    return os.pathsep.join(filter(None, paths))
