"""What PPO's options change: sampling, the value function, the reference, the mixed loss."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from support.tiny_models import gradients, labelled, save_rows, token_scorer
from support.tiny_online import (
    CALIBRATION,
    EOS,
    EVERY_OPTION,
    VOCABULARY,
    Parity,
    config,
    judge,
    policy,
    save_prompts,
    trainer,
)
from support.tolerances import assert_gradients_near, assert_near

from rlhf.algorithms.ptx import Ptx
from rlhf.config.ppo import PtxConfig
from rlhf.data.labels import IGNORED
from rlhf.data.mixture import Mixture
from rlhf.models.decoding import Decoding, StopTexts
from rlhf.online.reference import ReferenceModel
from rlhf.online.rewards import RewardModel
from rlhf.online.sampler import ModelSampler
from rlhf.online.terms import RewardSum, Term
from rlhf.runtime.deadline import Saved
from rlhf.training.engine.replicated import Replicated

GAMMA = 3.0


class Letters:
    """Token 3 is `a`, and so on."""

    def decode(self, ids, **_):
        return "".join(chr(ord("a") + i - 3) if i >= 3 else "?" for i in ids)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    return save_prompts(tmp_path_factory.mktemp("prompts"))


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demonstrations")
    rows = [row | {"id": str(i)} for i, row in enumerate(labelled([9, 5, 14, 7, 11], seed=5))]
    for row in rows:
        row["input_ids"] = [3 + i % (VOCABULARY - 3) for i in row["input_ids"]]
        pairs = zip(row["input_ids"], row["labels"], strict=True)
        row["labels"] = [own if label != IGNORED else label for own, label in pairs]
    save_rows(folder, train=rows)
    return Mixture({"d": folder}, {}, "train")


def weights_of(learner, prefix=""):
    named = learner.actor.named_parameters()
    return {name: p.detach().clone() for name, p in named if name.startswith(prefix)}


def equal(left, right):
    assert left.keys() == right.keys()
    return all(torch.equal(left[name], right[name]) for name in left)


def ptx(demonstrations, rows=3, coefficient=GAMMA, tokens=24):
    settings = PtxConfig(data={"d": {}}, coefficient=coefficient)
    return Ptx(settings, rows, demonstrations, 0, tokens)


RESTRICTED = {
    "sampling__top_k": 9,
    "sampling__top_p": 0.7,
    "sampling__min_p": 0.02,
    "sampling__min_new_tokens": 4,
}


def test_the_first_ratio_is_1_whatever_is_drawn_from(mixture, tmp_path):
    """Old and new log probabilities are both of the whole distribution. Checklist 10"""
    settings = config(**RESTRICTED, sampling__temperature=0.7, minibatch_size=4, epochs=2)
    one = trainer(mixture, tmp_path, settings)
    experience = one.experience(0, one.roll_out(0))
    rollout = experience.rollout
    first, second = one._rounds(0, 0, rollout.lengths)
    measures, ratio = one._accumulate(experience, first)
    assert ratio == 1.0
    assert measures["approx_kl"] == 0
    one.engine.step(1.0)
    assert one._accumulate(experience, second)[1] != 1.0
    for sampled, own in zip(rollout.sampled, rollout.logprobs, strict=True):
        assert_near(sampled, own)
    free = trainer(mixture, tmp_path / "free", config(sampling__temperature=0.7)).roll_out(0)
    for ids, start in zip(rollout.sequences, rollout.starts, strict=True):
        assert len(ids) - start >= 4
        assert EOS not in ids[start : start + 4]
    assert any(
        not torch.equal(left, right)
        for left, right in zip(rollout.sequences, free.sequences, strict=True)
    )


def test_the_reward_model_sees_how_a_stopped_response_ends(monkeypatch, mixture, tmp_path):
    from rlhf.online import rewards

    seen = []
    original = rewards.score
    monkeypatch.setattr(
        rewards, "score", lambda model, rows, *a: seen.extend(rows) or original(model, rows, *a)
    )
    model, settings = policy(), config()
    decoding = Decoding(stop=StopTexts(Letters(), list("abcdefghij")))
    sampler = ModelSampler(model, EOS, 10, 1.0, decoding)
    one = trainer(mixture, tmp_path, settings, model=model, sampler=sampler)
    rollout = one.experience(0, one.roll_out(0)).rollout
    assert rollout.ended.sum() > 4
    stopped = 0
    for ids, start, ended, judged in zip(
        rollout.sequences, rollout.starts, rollout.ended, seen, strict=True
    ):
        written = Letters().decode(ids[start + 1 :].tolist())
        assert not set(written) & set("abcdefghij"), "the first token alone may be one"
        whole = ids if ended else ids[:-1]
        if ids[-1] == EOS:
            assert torch.equal(judged, ids)
        else:
            assert torch.equal(judged, torch.cat([whole, torch.tensor([EOS])]))
            stopped += bool(ended)
    assert stopped > 2


def test_a_frozen_branch_gives_the_run_of_a_whole_reference(mixture, tmp_path):
    """Checklist 21"""
    kept = []
    for name in ("model", "frozen_branch"):
        settings = config(reference=name, freeze_layers=1, updates=3, epochs=2)
        one = trainer(mixture, tmp_path / name, settings)
        if name == "model":
            assert isinstance(one.scoring.reference, ReferenceModel)
        run = one.train()
        kept.append((run.journals["metrics"].records(), weights_of(one, "policy.model.")))
    (records, weights), (others, branched) = kept
    for mine, other in zip(records, others, strict=True):
        assert other == pytest.approx(mine, rel=1e-3, abs=1e-5)
    assert abs(others[-1]["kl"]) > 1e-3
    for name, tensor in weights.items():
        torch.testing.assert_close(branched[name], tensor, atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("kind", ["head", "branch", "critic"])
def test_the_value_function_warms_up_alone(mixture, tmp_path, kind):
    """The policy keeps its bytes, and its moments do not exist yet (VC-PPO). Checklist 43"""
    more = {"value__layers": 1} if kind == "branch" else {}
    settings = config(value__kind=kind, value__warmup=2, updates=3, epochs=2, **more)
    one = trainer(mixture, tmp_path, settings)
    before, states = weights_of(one), one.engine._optimizer.state
    for update in range(2):
        one.optimise(update, one.experience(update, one.roll_out(update)))
        now = weights_of(one)
        for name, tensor in before.items():
            trained = name.startswith("value.")
            assert torch.equal(now[name], tensor) == (not trained), name
        known = {id(parameter) for parameter in states}
        assert not known & {id(parameter) for parameter in one.actor.policy.parameters()}
    one.optimise(2, one.experience(2, one.roll_out(2)))
    after = weights_of(one)
    assert not any(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert {int(states[p]["step"]) for p in one.actor.policy.parameters()} == {2}
    assert {int(states[p]["step"]) for p in one.actor.value.parameters()} == {6}


def test_a_value_branch_is_learned_with_its_own_rate(mixture, tmp_path):
    """Checklist 43"""
    settings = config(value__kind="branch", value__layers=1, value__learning_rate=0.5, epochs=2)
    one = trainer(mixture, tmp_path, settings)
    peaks = {id(p): g["peak"] for g in one.engine._optimizer.param_groups for p in g["params"]}
    assert {peaks[id(p)] for p in one.actor.value.parameters()} == {0.5}
    before = weights_of(one)
    records = one.train().journals["metrics"].records()
    assert records[0]["max_ratio"] > 1
    assert all(not torch.equal(tensor, before[name]) for name, tensor in weights_of(one).items())


@pytest.mark.parametrize("kind", ["whiten", "shift", "none"])
def test_advantages_are_whitened_or_shifted_or_stay(mixture, tmp_path, kind):
    one = trainer(mixture, tmp_path, config(advantages=kind))
    experience = one.experience(0, one.roll_out(0))
    plain = trainer(mixture, tmp_path / "plain", config(advantages="none"))
    expected = torch.cat(plain.experience(0, plain.roll_out(0)).credit.advantages).double()
    if kind != "none":
        expected = expected - expected.mean()
    if kind == "whiten":
        expected = expected / (expected.square().mean() + 1e-8).sqrt()
    assert_near(torch.cat(experience.credit.advantages).double(), expected)
    assert expected.abs().max() > 0


def test_a_mixed_loss_adds_its_gradient(mixture, demonstrations, tmp_path):
    """γ times the mean cross-entropy over labelled tokens, at temperature 1. Checklist 39"""
    settings = config(sampling__temperature=0.7)
    one = trainer(mixture, tmp_path, settings, mixed=ptx(demonstrations))
    experience = one.experience(0, one.roll_out(0))
    (rounds,) = one._rounds(0, 0, experience.rollout.lengths)
    one._accumulate(experience, rounds)
    alone = gradients(one.actor)
    one.actor.zero_grad()
    before = one.mixed.state()
    measures = one.mixed.accumulate(one.engine)
    beside = gradients(one.actor)
    one._accumulate(experience, rounds)
    both = gradients(one.actor)
    for name, gradient in alone.items():
        assert_gradients_near({name: both[name]}, {name: gradient + beside.get(name, 0)})

    one.actor.zero_grad()
    stream = ptx(demonstrations)
    stream.load(before)
    rows, total, count = stream._stream.take(3), torch.zeros((), dtype=torch.float64), 0
    model = one.actor.policy.model
    for row in rows:
        ids, labels = torch.tensor([row["input_ids"]]), row["labels"]
        logprobs = model(input_ids=ids).logits[0].double().log_softmax(-1)
        for t, label in enumerate(labels[1:], 1):
            if label != IGNORED:
                total, count = total - logprobs[t - 1, label], count + 1
    (GAMMA * total / count).backward()
    assert measures == {"ptx_loss": pytest.approx(float(total.detach() / count), rel=1e-5)}
    assert_gradients_near(beside, gradients(one.actor))


def test_a_mixed_loss_is_learned_from_and_resumes_to_the_same_bytes(
    monkeypatch, mixture, demonstrations, tmp_path
):
    """Checklist 39"""
    settings = config(updates=3, epochs=2, value__warmup=1)

    def run(name, mixed):
        one = trainer(mixture, tmp_path / name, settings, mixed=mixed)
        one.train()
        return one

    plain, zero = run("plain", None), run("zero", ptx(demonstrations, coefficient=0.0))
    straight = run("straight", ptx(demonstrations))
    assert equal(weights_of(plain), weights_of(zero))
    assert not equal(weights_of(plain), weights_of(straight))
    records = straight.run.journals["metrics"].records()
    assert ["ptx_loss" in record for record in records] == [False, True, True]
    assert records[2]["ptx_loss"] < records[1]["ptx_loss"]

    original, calls = Replicated.step, []

    def interrupted(engine, *given):
        calls.append(1)
        if len(calls) == 3:  # in the second update
            os.kill(os.getpid(), signal.SIGUSR2)
        return original(engine, *given)

    monkeypatch.setattr(Replicated, "step", interrupted)
    with pytest.raises(Saved):
        run("parts", ptx(demonstrations))
    resumed = run("parts", ptx(demonstrations))
    assert equal(weights_of(resumed), weights_of(straight))
    assert resumed.run.journals["metrics"].records() == records


def test_options_of_all_kinds_go_together(monkeypatch, mixture, demonstrations, tmp_path):
    """Checklist 40"""
    settings = config(
        **EVERY_OPTION, **RESTRICTED, updates=3, responses_per_prompt=2, scoring="local",
        freeze_layers=1, reference="frozen_branch", value__kind="branch", value__layers=1,
        value__warmup=1, dynamic_sampling__max_rounds=3, rewards__scaling="reference",
        rewards__missing_eos_penalty=0.0, overlong__buffer=2, ema={"decay": 0.5},
    )  # fmt: skip

    def run(name):
        terms = [
            Term("parity", [Parity()], [CALIBRATION]),
            Term("model", [RewardModel(judge(), EOS, 64)], [CALIBRATION], weight=0.1),
        ]
        reward, mixed = RewardSum(terms), ptx(demonstrations)
        one = trainer(mixture, tmp_path / name, settings, reward, mixed=mixed)
        start = weights_of(one)
        one.train()
        return one, start

    straight, start = run("straight")
    records = straight.run.journals["metrics"].records()
    for record in records:
        assert record["reward"] == pytest.approx(
            record["reward_parity"] + 0.1 * record["reward_model"], abs=1e-5
        )
        assert {"kl_loss", "sampling_rounds", "entropy", "value_loss"} <= record.keys()
    assert ["ptx_loss" in record for record in records] == [False, True, True]
    assert records[1]["kl_loss"] == pytest.approx(0, abs=1e-6), "the policy was kept so far"
    assert records[2]["kl_loss"] > 0
    changed = {
        name for name, weights in weights_of(straight).items()
        if not torch.equal(weights, start[name])
    }  # fmt: skip
    assert {name.partition(".")[0] for name in changed} == {"policy", "value"}
    assert not any("layers.0." in name and name.startswith("policy.") for name in changed)

    original, calls = Replicated.step, []

    def interrupted(engine, *given):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGUSR2)
        return original(engine, *given)

    monkeypatch.setattr(Replicated, "step", interrupted)
    with pytest.raises(Saved):
        run("parts")
    resumed, _ = run("parts")
    assert equal(weights_of(resumed), weights_of(straight))
    assert resumed.run.journals["metrics"].records() == records


def test_critic_from_the_sft_model_starts_at_0(tmp_path):
    """Checklist 28"""
    from support.tiny_models import causal_lm, token_sequences

    from rlhf.models.reward import new_critic

    causal_lm(3).save_pretrained(tmp_path)
    value, rows = new_critic(tmp_path), token_sequences([6, 9], seed=2)
    places = [torch.arange(2, len(ids)) for ids in rows]
    values = value.values(rows, places)
    assert torch.equal(values, torch.zeros_like(values))
    start = token_scorer(3)
    state = start.model.model.state_dict()
    for name, tensor in value.model.model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    (values - 1).square().sum().backward()
    assert value.model.score.weight.grad.abs().max() > 0
