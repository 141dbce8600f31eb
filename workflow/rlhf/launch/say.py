"""What the launcher tells people."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """One message on standard error, marked as the launcher's."""
    print(f"rlhf launch: {text}", file=sys.stderr, flush=True)
