from __future__ import annotations

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlhf.runtime.trackers import TensorBoard


def test_tensorboard_gets_every_number(tmp_path):
    board = TensorBoard(tmp_path / "events")
    board.add({"step": 3, "loss": 0.5, "note": "text", "tokens": 7}, 3)
    board.close()
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert sorted(events.Tags()["scalars"]) == ["loss", "tokens"]
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(3, 0.5)]
    TensorBoard(None).add({"loss": 1.0}, 1)


@pytest.mark.parametrize("saved", [0, 2])
def test_tensorboard_hides_what_an_earlier_attempt_did_not_save(tmp_path, saved):
    for attempt, steps in enumerate((range(1, 5), range(saved + 1, 4))):
        board = TensorBoard(tmp_path, step=steps[0] - 1)
        for step in steps:
            board.add({"loss": float(attempt)}, step)
        board.close()
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    own = [(step, 1.0) for step in range(saved + 1, 4)]
    assert [(e.step, e.value) for e in events] == [(s, 0.0) for s in range(1, saved + 1)] + own
