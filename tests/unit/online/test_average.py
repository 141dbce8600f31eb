"""A moving average of the policy, beside the policy that samples and learns."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from support.tiny_online import config, save_prompts, trainer

from rlhf.runtime.deadline import Saved

SETTINGS = {"minibatch_size": 4, "updates": 2}


def run(folder, name, stop=0, **changes):
    """The run, its final weights, and the weights after each optimizer step."""
    learner = trainer(save_prompts(folder / "set"), folder / name, config(**SETTINGS | changes))
    engine, after, original = learner.engine, [], learner.engine.step

    def weights():
        return {name: tensor.detach().clone() for name, tensor in engine.weights()}

    def step(factor, only):
        norm = original(factor, only)
        after.append(weights())
        if len(after) == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return norm

    engine.step = step
    start = weights()
    learner.train()
    return learner.run.journals["metrics"].records(), weights(), [start, *after]


def test_the_policys_average_is_what_is_left_in_the_end(tmp_path):
    """In float64; it samples and learns as it does without, and the value function is its own."""
    metrics, last, after = run(tmp_path, "plain")
    averaged_metrics, averaged, _ = run(tmp_path, "averaged", ema={"decay": 0.7})
    assert metrics == averaged_metrics
    assert len(after) == 5
    for name, tensor in averaged.items():
        if not name.startswith("policy."):
            assert torch.equal(tensor, last[name]), name
            continue
        expected = after[0][name].double()
        for weights in after[1:]:
            expected = 0.7 * expected + 0.3 * weights[name].double()
        torch.testing.assert_close(tensor.double(), expected, atol=1e-6, rtol=1e-5)
    assert not torch.equal(averaged["policy.model.lm_head.weight"],
                           last["policy.model.lm_head.weight"])  # fmt: skip


def test_a_run_in_two_parts_has_the_same_average(tmp_path):
    _, straight, _ = run(tmp_path, "straight", ema={"decay": 0.7})
    with pytest.raises(Saved, match="after step 1 of 2"):
        run(tmp_path, "parts", stop=1, ema={"decay": 0.7})
    _, parts, _ = run(tmp_path, "parts", ema={"decay": 0.7})
    for name, tensor in straight.items():
        assert torch.equal(tensor, parts[name]), name
