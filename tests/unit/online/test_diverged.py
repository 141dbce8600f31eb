"""A PPO run whose numbers are not finite ends with their name; what it saved before is good."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.programs import spoilt_ranks
from support.tiny_models import run_ranks
from support.tiny_online import EOS, config, judge, policy, save_prompts, trainer

from rlhf.errors import NumericsError
from rlhf.online.reference import ReferenceModel
from rlhf.online.rewards import RewardModel
from rlhf.training.checkpoints import Checkpoints

INFINITY, NAN = float("inf"), float("nan")


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    return save_prompts(tmp_path_factory.mktemp("prompts"))


class SpoiltReward(RewardModel):
    """A real model, one of whose scores is spoilt, as a served or damaged model's may be."""

    value = 0.0

    def __call__(self, rollout):
        scores = super().__call__(rollout)
        scores[3] = self.value
        return scores


class SpoiltReference(ReferenceModel):
    """The same of one log probability."""

    value = 0.0

    def logprobs(self, rollout):
        logprobs = super().logprobs(rollout)
        logprobs[3][0] = self.value
        return logprobs


@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize(
    ("part", "name"),
    [("reward", "reward model's scores"), ("reference", "log probabilities of the reference")],
)
def test_an_answer_that_is_not_finite_is_never_a_number(mixture, tmp_path, part, name, value):
    """An infinite score would be clipped to a large one."""
    spoilt = {
        "reward": SpoiltReward(judge(), EOS, 64),
        "reference": SpoiltReference(policy(), 1.0, 64),
    }[part]
    spoilt.value = value
    one = trainer(mixture, tmp_path, config(), **{part: spoilt})
    row = one.prompts.take(8)[3]
    one.prompts.load({"epoch": 0, "position": 0})
    before = [p.detach().clone() for p in one.actor.parameters()]
    with pytest.raises(NumericsError, match=f"{name}: 1 of the rows hold NaN or inf") as caught:
        one.train()
    text = str(caught.value)
    assert "ppo.x, update 1, learning rate 0.003; rows d" in text
    assert f"d {row['id']}" in text
    assert "`optimizer.learning_rate` (it is 0.003) and `value.learning_rate` (it is 0.01)" in text
    assert all(torch.equal(p, b) for p, b in zip(one.actor.parameters(), before, strict=True))


@pytest.mark.parametrize(("rate", "updates"), [(1e30, 3), (1e38, 3), (1e38, 1)])
def test_a_rate_that_breaks_the_policy(mixture, tmp_path, rate, updates):
    settings = config(
        updates=updates, optimizer__learning_rate=rate, optimizer__schedule="constant"
    )
    one = trainer(mixture, tmp_path, settings, save_steps=1)
    with pytest.raises(NumericsError) as caught:
        one.train()
    text = str(caught.value)
    assert "ppo.x, update " in text
    assert f"learning rate {rate:g}" in text
    found = Checkpoints(tmp_path, {}).load()
    if found is not None:
        assert found[0] < updates
        for file in tmp_path.glob("*/step-*/engine-*.safetensors"):
            assert all(bool(torch.isfinite(each).all()) for each in load_file(file).values())


def test_a_rate_that_breaks_the_value_function(mixture, tmp_path):
    settings = config(updates=2, value__learning_rate=1e38, optimizer__schedule="constant")
    with pytest.raises(NumericsError, match="value"):
        trainer(mixture, tmp_path, settings).train()


def test_weights_that_a_run_starts_from_are_looked_at(mixture, tmp_path):
    model = policy()
    with torch.no_grad():
        model.model.model.norm.weight[2] = NAN
    with pytest.raises(NumericsError, match=r"weights hold NaN or infinity: .*norm.weight"):
        trainer(mixture, tmp_path, config(), model=model)


def test_all_ranks_end_together(tmp_path):
    """One rank alone has the score: none may wait for it."""
    save_prompts(tmp_path / "prompts")
    run_ranks(Path(spoilt_ranks.__file__), tmp_path)
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt")["error"] for rank in range(2))
    assert "reward model's scores: 1 of the rows hold NaN or infinity" in first
    assert first == second
