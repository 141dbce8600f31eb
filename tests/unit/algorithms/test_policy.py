"""The loss that on-policy methods share, against the papers' formulas in float64."""

from __future__ import annotations

import math

import pytest
import torch
from support.tiny_models import gradients
from support.tiny_online import (
    EVERY_OPTION,
    config,
    grpo_config,
    reinforce_config,
    rloo_config,
    rollout_of,
    save_prompts,
    trainer,
)
from support.tolerances import assert_gradients_near

from rlhf.algorithms.policy import policy_loss, policy_objective
from rlhf.online.algorithm import ActorOutput, Batch, Credit, Experience
from rlhf.online.loss_weights import loss_weights

LENGTHS, LONGEST = [3, 1, 6, 4], 10
ENDED = torch.tensor([True, True, False, True])
BETA = 0.3
CASES = {
    "ppo": {},
    "clip-higher": {"loss__clip_high": 0.5},
    "dual clip": {"loss__dual_clip": 1.2},
    "sequence ratio": {"loss__ratio": "sequence"},
    "per response": {"loss__aggregate": "response"},
    "constant length": {"loss__aggregate": "constant"},
    "kl, k2": {"kl__where": "loss", "kl__estimator": "k2"},
    "kl, k3": {"kl__where": "loss", "kl__estimator": "k3"},
    "entropy": {"loss__entropy_coefficient": 0.05},
    "masked": {"overlong__mask": True},
    "masked, per response": {"overlong__mask": True, "loss__aggregate": "response"},
    "everything": EVERY_OPTION,
}


def numbers(seed):
    """A number for every token of every response, in float32."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, generator=generator) * 0.4 for length in LENGTHS]


def experience_of(settings):
    old, reference = numbers(1), numbers(2)
    rollout = rollout_of([part - 2 for part in old], ENDED)
    scores, credit = torch.zeros(len(LENGTHS)), Credit(numbers(3), [torch.empty(0)] * len(LENGTHS))
    reference, ones = [part - 2 for part in reference], [torch.ones(n) for n in LENGTHS]
    weights = loss_weights(rollout, settings)
    return Experience(rollout, reference, scores, scores, credit, ones, BETA, weights)


def reference_loss(new, entropy, experience, settings):
    """One minibatch of all responses, response by response and token by token, in float64."""
    clip, loss = settings.clip, settings.loss
    low, high = 1 - clip, 1 + (loss.clip_high or clip)
    terms = []  # of each response that counts, of its tokens
    for i, length in enumerate(LENGTHS):
        if settings.overlong.mask and not ENDED[i]:
            continue
        old, ref, advantages = (
            part[i].double()
            for part in (experience.rollout.logprobs, experience.reference,
                         experience.credit.advantages)
        )  # fmt: skip
        tokens = []
        for t in range(length):
            change = new[i][t] - old[t]
            if loss.ratio == "sequence":  # GSPO-token, equation 14
                whole = ((new[i] - old).sum() / length).exp().detach()
                ratio = whole * new[i][t].exp() / new[i][t].exp().detach()
            else:
                ratio = change.exp()
            objective = min(ratio * advantages[t], ratio.clamp(low, high) * advantages[t])
            if loss.dual_clip and advantages[t] < 0:  # Ye et al., equation 5
                objective = max(objective, loss.dual_clip * advantages[t])
            term = -objective
            if settings.kl.where == "loss":
                d = new[i][t] - ref[t]
                estimate = {"k2": d**2 / 2, "k3": (-d).exp() - 1 + d}[settings.kl.estimator]
                term = term + BETA * estimate
            tokens.append(term - loss.entropy_coefficient * entropy[i][t])
        terms.append(tokens)
    if loss.aggregate == "token":
        return sum(map(sum, terms)) / sum(map(len, terms))
    if loss.aggregate == "response":
        return sum(sum(tokens) / len(tokens) for tokens in terms) / len(terms)
    return sum(sum(tokens) / LONGEST for tokens in terms) / len(terms)


@pytest.mark.parametrize("name", CASES)
def test_the_loss_and_its_gradient_are_the_papers(name):
    """Checklist 30"""
    settings = config(sampling__max_new_tokens=LONGEST, **CASES[name])
    experience = experience_of(settings)
    new = [(part - 2).requires_grad_() for part in numbers(4)]
    entropy = [part.abs().requires_grad_() for part in numbers(5)]
    tokens, counted = sum(LENGTHS), sum(experience.weights.counts)
    for rows in ([0], [3, 1], [2]):  # three micro-batches
        output = ActorOutput(
            torch.cat([new[i] for i in rows]), torch.empty(0), torch.cat([entropy[i] for i in rows])
        )
        batch = Batch.of(experience, rows, output, tokens / counted)
        (policy_objective(batch, settings)[0] / tokens).backward()
    wide = [part.detach().double().requires_grad_() for part in new]
    spread = [part.detach().double().requires_grad_() for part in entropy]
    reference_loss(wide, spread, experience, settings).backward()
    for left, right in zip(new + entropy, wide + spread, strict=True):
        found, expected = (
            torch.zeros(len(one)) if one.grad is None else one.grad.float() for one in (left, right)
        )
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert any(part.grad is not None for part in entropy) == (settings.loss.entropy_coefficient > 0)


def test_the_value_of_the_loss_is_the_papers():
    for settings in (config(sampling__max_new_tokens=LONGEST, **case) for case in CASES.values()):
        experience = experience_of(settings)
        new, entropy = [part - 2 for part in numbers(4)], [part.abs() for part in numbers(5)]
        output = ActorOutput(torch.cat(new), torch.empty(0), torch.cat(entropy))
        tokens, counted = sum(LENGTHS), sum(experience.weights.counts)
        batch = Batch.of(experience, range(len(LENGTHS)), output, tokens / counted)
        loss, measures = policy_objective(batch, settings)
        wide = ([part.double() for part in parts] for parts in (new, entropy))
        expected = float(reference_loss(*wide, experience, settings))
        assert float(loss) / tokens == pytest.approx(expected, abs=1e-6)
        assert ("kl_loss" in measures) == settings.kl.in_loss


# ratio, advantage, loss, clipped, gradient in log π: clip 0.2 below and 0.4 above, dual clip 3
DUAL_CASES = [
    (1.3, 2.0, -2.6, False, -2.6),  # beyond 1.2, within 1.4
    (1.5, 2.0, -2.8, True, 0.0),
    (0.7, -2.0, 1.6, True, 0.0),  # the lower end is the old one
    (2.5, -2.0, 5.0, False, 5.0),
    (9.0, -2.0, 6.0, True, 0.0),  # bad and very likely: bounded, where PPO's loss is 18
    (9.0, 2.0, -2.8, True, 0.0),
]


@pytest.mark.parametrize(("ratio", "advantage", "loss", "clipped", "slope"), DUAL_CASES)
def test_clip_higher_and_dual_clip_by_hand(ratio, advantage, loss, clipped, slope):
    change = torch.tensor([math.log(ratio)], requires_grad=True)
    found, cut = policy_loss(change, torch.tensor([advantage]), 0.2, 0.4, 3.0)
    assert float(found.detach()) == pytest.approx(loss, abs=1e-5)
    assert bool(cut) == clipped
    found.sum().backward()
    assert float(change.grad) == pytest.approx(slope, abs=1e-5)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    return save_prompts(tmp_path_factory.mktemp("prompts"))


METHODS = {
    "ppo": config(responses_per_prompt=2, **EVERY_OPTION),
    "rloo": rloo_config(**EVERY_OPTION),
    "grpo": grpo_config(**EVERY_OPTION),
    "reinforce": reinforce_config(**EVERY_OPTION),
}


@pytest.mark.parametrize("method", METHODS)
def test_gradients_do_not_depend_on_micro_batches(prompts, tmp_path, method):
    """Checklist 32"""
    learner = trainer(prompts, tmp_path, METHODS[method])
    experience = learner.experience(0, learner.roll_out(0))
    assert not experience.rollout.ended.all()
    assert experience.rollout.ended.any()
    torch.nn.init.normal_(next(learner.actor.policy.parameters()), std=0.15)  # ratios not 1
    found = []
    for tokens in (1, 40, 10_000):
        learner.micro_batch_tokens = tokens
        (rounds,) = learner._rounds(0, 0, experience.rollout.lengths)
        measures, _ = learner._accumulate(experience, rounds)
        found.append((measures, gradients(learner.actor)))
        learner.actor.zero_grad()
    for measures, gradient in found[:2]:
        assert_gradients_near(gradient, found[2][1])
        assert measures == pytest.approx(found[2][0], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_first_ratio_is_exactly_1(monkeypatch, prompts, tmp_path, method):
    """Checklist 30"""
    settings = METHODS[method].model_copy(update={"minibatch_size": 4, "epochs": 2})
    learner = trainer(prompts, tmp_path, settings, micro_batch_tokens=40)
    ratios, accumulate = [], learner._accumulate
    monkeypatch.setattr(
        learner, "_accumulate", lambda *a: ratios.append(accumulate(*a)) or ratios[-1]
    )
    learner.optimise(0, learner.experience(0, learner.roll_out(0)))
    (measures, ratio), *later = ratios
    assert ratio == 1.0
    assert measures["approx_kl"] == measures["clip_fraction"] == 0
    assert all(ratio != 1.0 for _, ratio in later)


def test_grpo_is_that_of_a_plain_loop(prompts, tmp_path):
    """One response at a time by the model's own forward pass: section 4.1 of DeepSeekMath."""
    settings = grpo_config(
        kl__coefficient=0.5, loss__entropy_coefficient=0.1, sampling__temperature=0.8
    )
    learner = trainer(prompts, tmp_path, settings)
    experience = learner.experience(0, learner.roll_out(0))
    torch.nn.init.normal_(next(learner.actor.policy.parameters()), std=0.15)
    (rounds,) = learner._rounds(0, 0, experience.rollout.lengths)
    learner._accumulate(experience, rounds)
    found = gradients(learner.actor)
    learner.actor.zero_grad()

    rollout, model = experience.rollout, learner.actor.policy
    count, total = len(rollout), 0.0
    for i, (ids, start) in enumerate(zip(rollout.sequences, rollout.starts, strict=True)):
        group = experience.scores[i // 4 * 4 : i // 4 * 4 + 4].double()
        advantage = (experience.scores[i].double() - group.mean()) / (group.std() + 1e-6)
        logits = model.model(input_ids=ids[None]).logits[0, start - 1 : -1] / 0.8
        distribution = torch.distributions.Categorical(logits=logits)
        new = distribution.log_prob(ids[start:])
        ratio, d = (new - rollout.logprobs[i]).exp(), new - experience.reference[i]
        objective = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        kl = (-d).exp() - 1 + d
        loss = -objective + 0.5 * kl - 0.1 * distribution.entropy()
        total = total + loss.mean() / count
    total.backward()
    assert_gradients_near(gradients(learner.actor), found)


def test_a_masked_response_gives_no_loss(prompts, tmp_path):
    """Whatever it was rewarded with: but for the mask its advantages would teach."""

    def update(mask, spoilt):
        settings = config(overlong__mask=mask, kl__where="loss", kl__estimator="k2")
        learner = trainer(prompts, tmp_path, settings)
        experience = learner.experience(0, learner.roll_out(0))
        for i, ended in enumerate(experience.rollout.ended.tolist()):
            if not ended and spoilt:
                for parts in (experience.credit, [experience.reference]):
                    for part in parts:
                        part[i] = part[i] + 1.0
        (rounds,) = learner._rounds(0, 0, experience.rollout.lengths)
        learner._accumulate(experience, rounds)
        return gradients(learner.actor)

    clean, spoilt = update(True, False), update(True, True)
    assert all(torch.equal(clean[name], spoilt[name]) for name in clean)
    assert any(part.any() for part in clean.values())
    open_, changed = update(False, False), update(False, True)
    assert not all(torch.equal(open_[name], changed[name]) for name in open_)


def test_a_minibatch_of_masked_responses_alone_teaches_nothing(prompts, tmp_path):
    settings = grpo_config(overlong__mask=True, sampling__max_new_tokens=1, updates=1)
    learner = trainer(prompts, tmp_path, settings)
    experience = learner.experience(0, learner.roll_out(0))
    experience.rollout.ended[:] = False
    weights = loss_weights(experience.rollout, settings)
    assert set(weights.counts) == {0.0}
    object.__setattr__(experience, "weights", weights)
    (rounds,) = learner._rounds(0, 0, experience.rollout.lengths)
    measures, _ = learner._accumulate(experience, rounds)
    assert measures["policy_loss"] == 0
    assert not any(part.any() for part in gradients(learner.actor).values())
