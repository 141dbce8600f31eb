"""A sampler that is not quite the trainer: measured, bounded, corrected."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from support.tiny_models import gradients
from support.tiny_online import EOS, config, policy, rloo_config, rollout_of, save_prompts, trainer

from rlhf.errors import NumericsError
from rlhf.online.mismatch import importance_weights, measure
from rlhf.online.sampler import ModelSampler


class LessSure(ModelSampler):
    """Says that its tokens were four times less probable than they are for the trainer."""

    def sample(self, prompts, noise):
        found = super().sample(prompts, noise)
        return [replace(each, logprobs=each.logprobs - math.log(4)) for each in found]


def less_sure(folder, settings):
    model = policy()
    longest, temperature = settings.sampling.max_new_tokens, settings.sampling.temperature
    sampler = LessSure(model, EOS, longest, temperature)
    prompts = save_prompts(folder / "prompts")
    return trainer(prompts, folder / "state", settings, model=model, sampler=sampler)


def test_weights_are_truncated_ratios():
    own = [torch.tensor([-1.0, -2.0]), torch.tensor([-3.0])]
    rollout = replace(rollout_of(own), sampled=[torch.tensor([-1.5, -1.0]), torch.tensor([-6.0])])
    first, second = importance_weights(rollout, 2.0)
    torch.testing.assert_close(first, torch.tensor([math.exp(0.5), math.exp(-1.0)]))
    assert second.tolist() == [2.0]  # e³ is more
    assert torch.cat(importance_weights(rollout, None)).tolist() == [1.0, 1.0, 1.0]
    found = measure(rollout, [first, second], 2.0)
    d = torch.tensor([0.5, -1.0, 3.0])
    assert found["sampler_mismatch"] == pytest.approx(1.5)
    assert found["max_sampler_mismatch"] == 3.0
    assert found["sampler_kl"] == pytest.approx(float((d.exp() - 1 - d).mean()))  # k3
    assert found["importance_weight"] == pytest.approx((math.exp(0.5) + math.exp(-1) + 2) / 3)
    assert found["truncated"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("make", [rloo_config, config])
@pytest.mark.parametrize(("cap", "weight"), [(None, 1.0), (2.0, 2.0), (1e3, 4.0)])
def test_the_policys_gradient_is_weighted_and_nothing_else_is(tmp_path, make, cap, weight):
    """All tokens have the same weight here, so the gradient is that many times as large."""
    found = {}
    for name, chosen in (("plain", None), ("weighted", cap)):
        changes = {"responses_per_prompt": 2} if make is rloo_config else {}
        settings = make(sampling__importance_cap=chosen, precision="float32", **changes)
        learner = less_sure(tmp_path / name, settings)
        experience = learner.experience(0, learner.roll_out(0))
        (rounds,) = learner._rounds(0, 0, experience.rollout.lengths)
        learner._accumulate(experience, rounds)
        found[name] = gradients(learner.actor)
    value = {name for name in found["plain"] if name.startswith("value.")}
    assert bool(value) == (make is config)
    for name, gradient in found["plain"].items():
        if make is config and name not in value:
            continue  # the value loss reaches the policy's weights too
        factor = 1.0 if name in value else weight
        torch.testing.assert_close(found["weighted"][name], factor * gradient, rtol=1e-4, atol=1e-6)


def test_figures_are_logged_where_the_sampler_may_differ(tmp_path):
    settings = config(updates=1, sampling__importance_cap=2.0, sampling__max_mismatch=2.0)
    (record,) = less_sure(tmp_path, settings).train().journals["metrics"].records()
    assert record["sampler_mismatch"] == pytest.approx(math.log(4), abs=1e-4)
    assert record["max_sampler_mismatch"] == pytest.approx(math.log(4), abs=1e-4)
    assert (record["importance_weight"], record["truncated"]) == (2.0, 1.0)


def test_a_sampler_that_is_too_far_away_ends_the_run_before_it_learns(tmp_path):
    """Checklist 31"""
    learner = less_sure(tmp_path, config(sampling__importance_cap=2.0))
    before = [parameter.clone() for parameter in learner.actor.parameters()]
    with pytest.raises(NumericsError, match=r"1\.39 nats per token away") as caught:
        learner.train()
    assert "ppo.x, update 1" in str(caught.value)
    assert "ppo.x.sampling.max_mismatch" in str(caught.value)
    assert all(map(torch.equal, before, learner.actor.parameters()))
