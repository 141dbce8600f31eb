from __future__ import annotations

import logging
import time

import pytest

from rlhf.runtime import deadline
from rlhf.runtime.deadline import DEADLINE, Deadline, Saved
from rlhf.runtime.options import RunOptions
from rlhf.training.run import TrainingRun

NOON = 1_800_000_000.0


@pytest.fixture
def now(monkeypatch):
    """Sets the clock; the allocation ends at ``NOON``."""
    monkeypatch.setenv(DEADLINE, str(NOON))

    def put(seconds: float) -> None:
        monkeypatch.setattr(deadline.time, "time", lambda: seconds)

    return put


def test_the_margin_starts_at_the_least(now):
    found = Deadline(60.0)
    now(NOON - 60.5)
    assert not found.near()
    now(NOON - 59.5)
    assert found.near()


def test_the_margin_grows_with_what_was_measured(now):
    found = Deadline(60.0)
    found.stepped(5.0)
    found.saved(10.0)
    assert found.margin == 60.0
    found.saved(40.0)
    found.stepped(20.0)
    found.stepped(1.0)
    found.saved(2.0)
    assert found.margin == 2 * 40 + 2 * 20
    now(NOON - 119)
    assert found.near()
    assert "the last step begins 120 s before (longest step 20.0 s, longest save 40.0 s)" in str(
        found
    )


@pytest.mark.parametrize("value", [None, ""])
def test_an_allocation_without_a_known_end_is_never_near_it(monkeypatch, value):
    monkeypatch.delenv(DEADLINE, raising=False)
    if value is not None:
        monkeypatch.setenv(DEADLINE, value)
    assert not Deadline(1e12).near()
    assert "no known end" in str(Deadline(1.0))


@pytest.mark.usefixtures("leave_no_trace", "no_launcher")
def test_a_run_leaves_the_earlier_the_longer_its_saves_take(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv(DEADLINE, "100")
    clock = 0.0
    monkeypatch.setattr(time, "time", lambda: clock)
    monkeypatch.setattr(time, "monotonic", lambda: clock)

    def snapshot() -> dict[str, int]:
        nonlocal clock
        clock += 20.0
        return {}

    options = RunOptions("sft.x", tmp_path, {}, save_seconds=30.0, save_margin=5.0)
    run = TrainingRun(options, 1000, snapshot, lambda _: None)

    def train() -> None:
        nonlocal clock
        for step in range(1, 1000):
            clock += 1.0
            run.finish_step(step, 1)

    with pytest.raises(Saved, match="state saved after step 39 of 1000"):
        train()
    # steps 1 to 30, a save of 20 s; from then on 42 s are kept, and step 39 is the first in them
    assert clock == 30 + 20 + 9 + 20
    said = [one for one in caplog.text.splitlines() if "the allocation ends at" in one]
    assert "the last step begins 5 s before (longest step 0.0 s, longest save 0.0 s)" in said[0]
    assert "the last step begins 42 s before (longest step 1.0 s, longest save 20.0 s)" in said[1]


@pytest.mark.usefixtures("leave_no_trace", "no_launcher")
def test_saves_take_a_twentieth_of_the_time_at_most(tmp_path, monkeypatch):
    clock, saves = 0.0, []
    monkeypatch.setattr(time, "monotonic", lambda: clock)

    def snapshot() -> dict[str, int]:
        nonlocal clock
        saves.append(clock)
        clock += 20.0
        return {}

    run = TrainingRun(
        RunOptions("sft.x", tmp_path, {}, save_seconds=100.0), 3000, snapshot, lambda _: None
    )
    for step in range(1, 2000):
        clock += 1.0
        run.finish_step(step, 1)
    assert saves == [100.0, 500.0, 900.0, 1300.0, 1700.0]
