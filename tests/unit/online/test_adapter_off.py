"""A policy with an adapter is its own reference."""

from __future__ import annotations

import pytest
import torch
from support.tiny_online import config, policy, rloo_config, save_prompts, trainer
from support.tiny_settings import lora
from support.tolerances import assert_near

from rlhf.models.adapters import add_adapter
from rlhf.models.prefix_tuning import add_prefix
from rlhf.online.reference import AdapterOff, ReferenceModel


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    return save_prompts(tmp_path_factory.mktemp("prompts"))


def learner(mixture, state, settings, off, prefix=False):
    model = policy()
    if prefix:
        add_prefix(model.model, 3, 0, "ppo.x.adapter")
    else:
        add_adapter(model.model, lora(), 0, "ppo.x.adapter")
    reference = ReferenceModel(policy(), settings.sampling.temperature, 64)
    made = trainer(mixture, state, settings, reference=reference, model=model)
    if off:
        made.scoring.reference = AdapterOff(made.engine, model, settings.sampling.temperature, 64)
    return made


@pytest.mark.parametrize("settings", [
    config(sampling__temperature=0.7),
    config(value__kind="critic"),
    rloo_config(responses_per_prompt=2),
])  # fmt: skip
def test_it_is_the_model_that_the_policy_started_from(mixture, tmp_path, settings):
    """Checklist 44"""
    off = learner(mixture, tmp_path / "off", settings, off=True)
    rollout = off.roll_out(0)
    assert_near(torch.cat(off.scoring.reference.logprobs(rollout)), torch.cat(rollout.logprobs))
    off.optimise(0, off.experience(0, rollout))
    changed = off.roll_out(1)
    found = torch.cat(off.scoring.reference.logprobs(changed))
    start = ReferenceModel(policy(), settings.sampling.temperature, 64)
    assert_near(found, torch.cat(start.logprobs(changed)))
    assert (found - torch.cat(changed.logprobs)).abs().max() > 1e-2


@pytest.mark.parametrize("settings", [config(), rloo_config(responses_per_prompt=2)])
def test_it_is_the_model_without_a_prefix(mixture, tmp_path, settings):
    off = learner(mixture, tmp_path / "off", settings, off=True, prefix=True)
    start = ReferenceModel(policy(), settings.sampling.temperature, 64)
    frozen = {n: p.detach().clone() for n, p in off.engine.parts() if "prefix" not in n}
    for update in range(2):
        rollout = off.roll_out(update)
        found = torch.cat(off.scoring.reference.logprobs(rollout))
        assert_near(found, torch.cat(start.logprobs(rollout)))
        assert (found - torch.cat(rollout.logprobs)).abs().max() > 1e-3
        off.optimise(update, off.experience(update, rollout))
    assert all("value" in name for name in frozen), "beside the prefix, the head alone is trained"


def test_a_run_is_the_same_as_with_a_model_of_its_own(mixture, tmp_path):
    """Checklist 44"""
    settings = config(kl__coefficient=0.5)
    records = []
    for off in (True, False):
        made = learner(mixture, tmp_path / str(off), settings, off)
        finished = made.train()
        records.append(finished.journals["metrics"].records())
    (_, off), (_, apart) = (list(each) for each in records)
    assert off["kl"] == pytest.approx(apart["kl"], abs=1e-4)
    assert abs(off["kl"]) > 1e-3
    assert off["policy_loss"] == pytest.approx(apart["policy_loss"], abs=1e-4)
