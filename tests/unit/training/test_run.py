from __future__ import annotations

import os
import random
import shutil
import signal

import numpy as np
import pytest
import torch

from rlhf.runtime.deadline import Saved, StopRequest, stop_requested
from rlhf.runtime.forced import force
from rlhf.runtime.options import RunOptions
from rlhf.training import distributed
from rlhf.training.checkpoints import Checkpoints
from rlhf.training.determinism import random_state, restore_random_state, seed_everything
from rlhf.training.run import TrainingRun


def draws():
    return [random.random(), random.gauss(0, 1), *np.random.randn(3).tolist(),
            *torch.randn(3).tolist(), *torch.randperm(9).tolist()]  # fmt: skip


def test_a_seed_decides_every_draw():
    """Checklist 36"""
    seed_everything(3)
    first = draws()
    seed_everything(3)
    assert draws() == first
    seed_everything(4)
    other = draws()
    assert [a == b for a, b in zip(first, other, strict=True)][:8] == [False] * 8
    assert torch.are_deterministic_algorithms_enabled()
    seed_everything(2**32 + 3)  # numpy takes 32 bits


def test_random_states_survive_a_checkpoint(tmp_path):
    """Checklist 40"""
    seed_everything(0)
    draws()
    random.gauss(0, 1)  # leaves a second gaussian in reserve
    np.random.randn()
    Checkpoints(tmp_path, {}).save(1, {"random": random_state()})
    expected = [draws() for _ in range(3)]
    seed_everything(99)
    restore_random_state(Checkpoints(tmp_path, {}).load()[1]["random"])
    assert [draws() for _ in range(3)] == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_signals_ask_for_a_stop(number):
    stop = StopRequest().install()
    assert not stop.requested()
    assert not stop_requested()
    os.kill(os.getpid(), number)
    assert stop.requested()
    assert stop_requested()
    assert not StopRequest().requested()


def make(folder, steps=5, state=None, **options):
    state = state if state is not None else {"x": 0}
    return TrainingRun(
        RunOptions("sft.x", folder, {}, **options), steps, lambda: state, state.update
    )


def saved(run):
    return sorted(int(path.name[5:]) for path in run._checkpoints.folder.glob("step-*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_saves_between_steps(tmp_path, number):
    state = {"x": 41}
    run = make(tmp_path, state=state)
    run.finish_step(1, 10)
    assert saved(run) == []
    run.record({"step": 2}, 2)
    state["x"] = 42
    os.kill(os.getpid(), number)
    with pytest.raises(Saved, match="after step 2 of 5"):
        run.finish_step(2, 10)
    assert saved(run) == [2]
    state["x"] = 0
    again = make(tmp_path, state=state)
    assert (again.start, state["x"]) == (2, 42)
    assert again.last_metrics("step", "absent") == {"step": 2}
    again.finish_step(3, 10)


def test_a_signal_in_the_last_step_does_not_put_the_end_off(tmp_path):
    run = make(tmp_path, steps=1)
    os.kill(os.getpid(), signal.SIGTERM)
    run.finish_step(1, 10)
    assert saved(run) == [1]


def test_states_are_saved_by_steps_by_time_and_at_the_end(tmp_path):
    by_steps = make(tmp_path / "a", steps=5, save_steps=2)
    seen = []
    for step in range(1, 6):
        by_steps.finish_step(step, 1)
        seen.append(saved(by_steps))
    assert seen == [[], [2], [2], [2, 4], [4, 5]]
    by_time = make(tmp_path / "b", save_seconds=0.0)
    by_time.finish_step(1, 1)
    assert saved(by_time) == [1]


def test_a_run_that_was_killed_forgets_what_it_wrote_after_the_last_state(tmp_path):
    """Checklist 40"""
    run = make(tmp_path, save_steps=2)
    for step in (1, 2, 3):
        run.record({"step": step}, step)
        run.sample({"text": str(step)})
        run.finish_step(step, 1)
    again = make(tmp_path, save_steps=2)  # the first one never ended
    assert again.start == 2
    assert [r["step"] for r in again.journals["metrics"].records()] == [1, 2]
    assert [r["text"] for r in again.journals["samples"].records()] == ["1", "2"]


def test_one_process_is_rank_0_of_1():
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.total([1, 2.5]) == [1.0, 2.5]
    assert distributed.gather(["a"]) == ["a"]
    assert distributed.anyone(True)
    assert not distributed.anyone(False)
    distributed.start()
    distributed.wait()
    distributed.finish()


def finish(folder, steps=2, **options):
    """A whole run, published; the steps that it computed, and its last state."""
    state = {"x": 0}
    run = make(folder, steps, state, **options)
    computed = list(range(run.start, steps))
    for step in computed:
        state["x"] += step + 1
        run.record({"step": step + 1, "x": state["x"]}, step + 1)
        run.finish_step(step + 1, 10)
    run.close()
    run.mark_published()
    return computed, state["x"], run.journals["metrics"].records()


def test_a_finished_run_is_only_written_out_again(tmp_path, caplog):
    caplog.set_level("INFO")
    first = finish(tmp_path)
    again = finish(tmp_path)
    assert (first[0], again[0]) == ([0, 1], [])
    assert again[1:] == first[1:]
    assert "all 2 steps were done and saved before; only the result is written out" in caplog.text
    assert "goes on after" not in caplog.text


def test_a_forced_run_is_computed_again_once(tmp_path, caplog):
    caplog.set_level("INFO")
    first = finish(tmp_path)
    force(tmp_path)
    again = finish(tmp_path)
    assert again == first
    assert "sft.x is forced: it is computed again, from step 0" in caplog.text
    assert finish(tmp_path)[0] == []
    force(tmp_path)
    force(tmp_path)  # twice is once
    assert finish(tmp_path) == first


def test_a_forced_run_that_was_cut_off_goes_on(tmp_path):
    finish(tmp_path)
    force(tmp_path)
    run = make(tmp_path, 2, save_steps=1)
    assert run.start == 0
    run.finish_step(1, 10)  # and there it was killed
    force(tmp_path)
    assert make(tmp_path, 2).start == 1


def test_a_run_that_was_never_published_is_not_forced(tmp_path):
    """Killed between its last save and its publishing, say."""
    run = make(tmp_path, 1)
    run.finish_step(1, 10)
    force(tmp_path)
    assert make(tmp_path, 1).start == 1


def test_a_forced_run_that_was_killed_as_it_dropped_its_states(tmp_path):
    finish(tmp_path)
    force(tmp_path)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    for state in folder.glob("step-*"):  # but the mark is there still
        shutil.rmtree(state)
    assert finish(tmp_path)[0] == [0, 1]
    assert finish(tmp_path)[0] == []


def test_speeds_go_to_tensorboard_and_nowhere_else(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = make(tmp_path / "state", 3, tensorboard=tmp_path / "events", save_steps=1)
    for step in (1, 2):
        run.record({"step": step, "loss": 1.0}, step)
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(Saved):
                run.finish_step(step, 500)
        else:
            run.finish_step(step, 500)
    assert all(record.keys() == {"step", "loss"} for record in run.journals["metrics"].records())
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    for name in ("speed/tokens_per_second", "speed/step_seconds", "seconds/save"):
        seen = events.Scalars(name)
        assert [one.step for one in seen] == [1, 2]
        assert all(one.value > 0 for one in seen)
    pairs = zip(events.Scalars("speed/tokens_per_second"), events.Scalars("speed/step_seconds"),
                strict=True)  # fmt: skip
    assert all(speed.value * time.value == pytest.approx(500, rel=1e-3) for speed, time in pairs)
