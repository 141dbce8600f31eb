"""Runs that are asked to stop."""

from __future__ import annotations

import os
import signal

import pytest

from rlhf.training.engine.replicated import Replicated


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Ask for a stop in one update of all that come."""
    original, calls = Replicated.step, []

    def step(engine: Replicated, factor: float) -> float:
        calls.append(1)
        if len(calls) == after:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(engine, factor)

    monkeypatch.setattr(Replicated, "step", step)
