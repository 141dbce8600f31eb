from __future__ import annotations

import os
import random
import signal

import numpy as np
import pytest
import torch

from rlhf.runtime import distributed
from rlhf.runtime.checkpoints import Checkpoints
from rlhf.runtime.deadline import Saved, StopRequest, stop_requested
from rlhf.runtime.determinism import random_state, restore_random_state, seed_everything
from rlhf.runtime.options import RunOptions
from rlhf.runtime.run import Run


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
    return Run(RunOptions("sft.x", folder, {}, **options), steps, lambda: state, state.update)


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
    parameter = torch.nn.Parameter(torch.zeros(1))
    distributed.sum_gradients([parameter])
    assert parameter.grad is None
    distributed.start()
    distributed.wait()
    distributed.finish()
