"""What a check comes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlhf.errors import RlhfError

Verdict = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what was looked at.
        verdict: ``failed`` stops runs; a ``warning`` may.
        found: what is there.
        to_do: what to do about it; empty when all is well.
    """

    name: str
    verdict: Verdict
    found: str
    to_do: str = ""


def failed(name: str, error: RlhfError) -> Check:
    """An error as a failed check."""
    what = "; ".join(error.what.splitlines())
    found = f"{what} ({error.where})" if error.where is not None else what
    return Check(name, "failed", found, error.hint or error.expected or "")
