"""A reward of several terms: sums, ensembles, comparison with the datasets' own replies."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny_models import save_rows
from support.tiny_online import EOS, config, rollout_of, save_prompts, trainer

from rlhf.data.mixture import Mixture
from rlhf.online.terms import RewardSum, Term
from rlhf.runtime.deadline import Saved
from rlhf.training.engine.replicated import Replicated

SCORES = {"a": [1.0, -2.0, 0.5], "b": [3.0, 0.0, -1.0], "c": [0.2, 0.4, 4.0]}
CALIBRATIONS = {"a": (0.5, 2.0), "b": (-1.0, 0.5), "c": (0.0, 3.0)}


class Fixed:
    """A reward model whose scores are known."""

    remote = False

    def __init__(self, name):
        self.scores, self.calls = SCORES[name], 0

    def __call__(self, rollout):
        self.calls += 1
        return torch.tensor(self.scores[: len(rollout.examples)])


class LastToken:
    """A score that depends on the response: its last token id."""

    remote = False

    def __call__(self, rollout):
        return torch.tensor([float(ids[-1]) for ids in rollout.sequences])


class EveryToken:
    """Rewards tokens by their ids."""

    remote = False

    def __call__(self, rollout):
        pairs = zip(rollout.sequences, rollout.starts, strict=True)
        return [ids[start:].float() for ids, start in pairs]


def rollout():
    return rollout_of([torch.zeros(2), torch.zeros(1), torch.zeros(3)])


def term(name, members, **options):
    return Term(name, [Fixed(one) for one in members], [CALIBRATIONS[one] for one in members],
                **options)  # fmt: skip


def scores_of(reward, responses):
    asked = reward.asked(responses)
    return reward.add_up(responses, [source(asked) for source in reward.sources])


def calibrated(name):
    mean, std = CALIBRATIONS[name]
    return (np.array(SCORES[name], dtype=np.float64) - mean) / std


def test_a_model_alone_keeps_its_raw_scores():
    reward = RewardSum([term("a", "a")])
    found = scores_of(reward, rollout())
    assert found.raw.tolist() == SCORES["a"]
    assert reward.calibration == CALIBRATIONS["a"]
    assert (found.tokens, found.terms) == (None, {})


def test_a_sum_is_of_calibrated_scores_by_weight():
    reward = RewardSum([term("a", "a", weight=2.0), term("b", "b", weight=-0.25)])
    found = scores_of(reward, rollout())
    assert reward.calibration == (0.0, 1.0)
    np.testing.assert_allclose(found.raw, 2 * calibrated("a") - 0.25 * calibrated("b"), rtol=1e-6)
    for name in "ab":
        np.testing.assert_allclose(found.terms[name], calibrated(name), rtol=1e-6)


def test_the_weight_of_a_model_alone():
    reward = RewardSum([term("a", "a", weight=0.5)])
    np.testing.assert_allclose(scores_of(reward, rollout()).raw, 0.5 * calibrated("a"), rtol=1e-6)
    assert reward.calibration == (0.0, 1.0)


@pytest.mark.parametrize("combine", ["mean", "minimum", "uncertainty"])
def test_ensembles(combine):
    """Coste et al. 2023, section 3.2: mean, worst case, uncertainty-weighted optimization."""
    members = np.stack([calibrated(name) for name in "abc"])  # [k, n]
    average = members.sum(0) / 3
    spread = ((members - average) ** 2).sum(0) / 3
    expected = {"mean": average, "minimum": members.min(0),
                "uncertainty": average - 0.7 * spread}[combine]  # fmt: skip
    reward = RewardSum([term("all", "abc", combine=combine, coefficient=0.7)])
    np.testing.assert_allclose(scores_of(reward, rollout()).raw, expected, rtol=1e-5)


def test_a_model_in_two_terms_is_asked_once():
    shared = Fixed("a")
    both = Term("both", [shared, Fixed("b")], [CALIBRATIONS["a"], CALIBRATIONS["b"]])
    reward = RewardSum([Term("a", [shared], [CALIBRATIONS["a"]]), both])
    found = scores_of(reward, rollout())
    assert shared.calls == 1
    expected = calibrated("a") + (calibrated("a") + calibrated("b")) / 2
    np.testing.assert_allclose(found.raw, expected, rtol=1e-6)


def test_rewards_of_tokens():
    responses = rollout()
    responses = replace(
        responses, sequences=[torch.arange(len(ids)) for ids in responses.sequences]
    )
    dense = Term("dense", [EveryToken()], [(0.0, 1.0)], weight=0.5)
    alone = scores_of(RewardSum([dense]), responses)
    assert alone.raw.tolist() == [0, 0, 0]
    assert [each.tolist() for each in alone.tokens] == [[0.5, 1.0], [0.5], [0.5, 1.0, 1.5]]
    again = scores_of(RewardSum([dense, replace(dense, name="more"), term("a", "a")]), responses)
    assert [each.tolist() for each in again.tokens] == [[1.0, 2.0], [1.0], [1.0, 2.0, 3.0]]
    np.testing.assert_allclose(again.raw, calibrated("a"), rtol=1e-6)
    assert again.terms["dense"].tolist() == [3.0, 1.0, 6.0]


def test_scores_relative_to_the_own_reply():
    """Of each prompt's reply once; one that is too long is cut, and counts as not ended."""
    first, second = {"own_reply_ids": [8, 5]}, {"own_reply_ids": [1, 4, 9]}
    responses = replace(
        rollout_of([torch.zeros(1)] * 3, torch.tensor([True, False, True])),
        examples=[first, first, second],
        sequences=[torch.tensor([7, 2]), torch.tensor([7, 3]), torch.tensor([6, 11])],
    )
    reward = RewardSum([Term("last", [LastToken()], [(100.0, 2.0)])], own_replies=2)
    asked = reward.asked(responses)
    assert [ids.tolist() for ids in asked.sequences[3:]] == [[7, 8, 5], [6, 1, 4]]
    assert asked.ended.tolist() == [True, False, True, True, False]
    assert asked.starts == [1, 1, 1, 1, 1]
    assert scores_of(reward, responses).raw.tolist() == [2 - 5, 3 - 5, 11 - 4]
    assert reward.calibration == (0.0, 2.0), "a mean would cancel out"


# In whole runs.


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """Prompts of which each has an own reply."""
    folder = tmp_path_factory.mktemp("prompts")
    save_prompts(folder)
    rows = [dict(row) for row in Mixture({"d": folder}, {}, "train")]
    for i, row in enumerate(rows):
        row["own_reply_ids"] = [3 + i % 5, 4, EOS]
        del row["dataset"]
    other = tmp_path_factory.mktemp("replies")
    save_rows(other, train=rows)
    return Mixture({"d": other}, {}, "train")


def terms():
    dense = Term("dense", [EveryToken()], [(0.0, 1.0)], weight=0.01)
    return RewardSum([Term("last", [LastToken()], [(10.0, 5.0)], weight=2.0), dense])


def test_what_a_run_logs_and_learns_from(tmp_path, mixture):
    run = trainer(mixture, tmp_path, config(updates=1, rewards__clip=None), terms())
    rollout = run.roll_out(0)
    experience = run.experience(0, rollout)
    (record,) = run.train().journals["metrics"].records()
    last = torch.tensor([float(ids[-1]) for ids in rollout.sequences], dtype=torch.float64)
    tokens = [ids[start:].double() for ids, start in
              zip(rollout.sequences, rollout.starts, strict=True)]  # fmt: skip
    sums = torch.stack([each.sum() for each in tokens])
    assert experience.token_rewards.tolist() == pytest.approx((0.01 * sums).tolist(), rel=1e-5)
    assert experience.scores.tolist() == pytest.approx(
        (2 * (last - 10) / 5 - (~rollout.ended).double()).tolist(), rel=1e-5
    )
    # `train` drew the prompts that follow: the names are what is compared here.
    assert {"reward_last", "reward_dense"} <= record.keys()
    assert record["reward"] == pytest.approx(
        2 * record["reward_last"] + 0.01 * record["reward_dense"], rel=1e-5
    )


def test_dense_rewards_are_added_to_their_tokens(tmp_path, mixture):
    settings = config(updates=1, kl__coefficient=0.0, rewards__missing_eos_penalty=0.0)
    run = trainer(mixture, tmp_path, settings, terms())
    rollout = run.roll_out(0)
    seen = {}
    own = run.algorithm.advantages
    run.algorithm.advantages = lambda rollout, rewards: (seen.update(rewards=rewards),
                                                         own(rollout, rewards))[1]  # fmt: skip
    run.experience(0, rollout)
    for i, rewards in enumerate(seen["rewards"]):
        expected = 0.01 * rollout.sequences[i][rollout.starts[i] :].double()
        expected[-1] += max(-5.0, min(5.0, 2 * (float(rollout.sequences[i][-1]) - 10) / 5))
        assert rewards.tolist() == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-6)


def test_a_run_relative_to_its_own_replies(tmp_path, mixture):
    reward = RewardSum([Term("last", [LastToken()], [(10.0, 5.0)])], own_replies=10)
    settings = config(updates=1, rewards__relative_to="reply")
    (record,) = trainer(mixture, tmp_path, settings, reward).train().journals["metrics"].records()
    plain = RewardSum([Term("last", [LastToken()], [(10.0, 5.0)])])
    other = trainer(mixture, tmp_path / "plain", config(updates=1), plain).train()
    (before,) = other.journals["metrics"].records()
    # Every own reply ends with EOS, whose calibrated score is (2 - 10) / 5.
    assert record["reward"] == pytest.approx(before["reward"] - (EOS - 10) / 5, rel=1e-5)


@pytest.mark.parametrize("scaling", ["running", "reference"])
def test_a_run_goes_on_to_the_same_weights(monkeypatch, tmp_path, mixture, scaling):
    """With what scores are divided by, which is part of a saved state. Checklist 40"""
    settings = config(updates=3, rewards__scaling=scaling, rewards__clip=None)

    straight = trainer(mixture, tmp_path / "straight", settings, terms())
    expected = straight.train().journals["metrics"].records()
    original, calls = Replicated.step, []

    def interrupted(engine, *given):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGUSR2)
        return original(engine, *given)

    monkeypatch.setattr(Replicated, "step", interrupted)
    with pytest.raises(Saved, match="after step 2 of 3"):
        trainer(mixture, tmp_path / "parts", settings, terms()).train()
    resumed = trainer(mixture, tmp_path / "parts", settings, terms())
    assert resumed.shaping.scale.count == {"running": 16, "reference": 8}[scaling]
    assert resumed.train().journals["metrics"].records() == expected
    both = (run.actor.state_dict().values() for run in (resumed, straight))
    assert all(map(torch.equal, *both))


def test_reference_scaling_is_by_the_first_rollout(tmp_path, mixture):
    """Checklist 27"""
    settings = config(updates=2, rewards__scaling="reference", rewards__clip=None,
                      rewards__missing_eos_penalty=0.0)  # fmt: skip
    run = trainer(mixture, tmp_path, settings, RewardSum([Term("l", [LastToken()], [(0, 1)])]))
    first = run.experience(0, run.roll_out(0))
    second = run.experience(1, run.roll_out(1))
    std = float(first.raw_scores.double().std(correction=0))
    for experience in (first, second):
        expected = experience.raw_scores.double() / std
        assert experience.scores.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert run.shaping.scale.count == len(first.raw_scores)
