from __future__ import annotations

import hashlib
import json
import math
import os
import signal

import pytest
import torch
from support.tiny_models import gradients
from support.tiny_online import CALIBRATION, EOS, config, judge, policy, save_prompts, trainer
from support.tolerances import assert_gradients_near

from rlhf.algorithms import policy as policy_module
from rlhf.models.backbone import backbones
from rlhf.models.decoding import Decoding
from rlhf.online import loop, rewards, sampler
from rlhf.online import reference as references
from rlhf.online.prompts import PromptStream
from rlhf.online.reference import ReferenceModel
from rlhf.online.rewards import RewardModel
from rlhf.runtime.deadline import Saved
from rlhf.training.engine.replicated import Replicated


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    return save_prompts(tmp_path_factory.mktemp("prompts"))


def digest(model):
    total = hashlib.sha256()
    for name, parameter in model.named_parameters():
        total.update(name.encode() + parameter.detach().numpy().tobytes())
    return total.hexdigest()


def experience_of(one, update=0):
    return one.experience(update, one.roll_out(update))


def spy_on_minibatches(monkeypatch):
    """Measures and the largest ratio of every optimizer step, in order."""
    found = []
    original = loop.OnlineTrainer._accumulate

    def accumulate(self, experience, rounds):
        measured, ratio = original(self, experience, rounds)
        found.append((dict(measured), ratio))
        return measured, ratio

    monkeypatch.setattr(loop.OnlineTrainer, "_accumulate", accumulate)
    return found


@pytest.mark.parametrize("kind", ["head", "critic"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("micro_batch_tokens", [1, 40, 10_000])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_first_ratio_is_exactly_1(
    monkeypatch, tmp_path, mixture, kind, temperature, micro_batch_tokens, precision
):
    """Checklist 9, 19, 30"""
    steps = spy_on_minibatches(monkeypatch)
    settings = config(
        value__kind=kind, sampling__temperature=temperature, minibatch_size=4, epochs=2,
        precision=precision,
    )  # fmt: skip
    one = trainer(mixture, tmp_path, settings, micro_batch_tokens=micro_batch_tokens)
    for update in range(2):
        steps.clear()
        one.optimise(update, experience_of(one, update))
        assert len(steps) == 4
        measured, ratio = steps[0]
        assert ratio == 1.0
        assert measured["clip_fraction"] == 0
        assert measured["approx_kl"] == 0
        assert steps[1][1] != 1.0, "nothing was learned from the first minibatch"


@pytest.mark.parametrize("kind", ["head", "critic"])
def test_rows_in_one_sequence_are_trained_on_as_padded_ones(monkeypatch, tmp_path, mixture, kind):
    """Of the policy, the critic, the reward model and the reference."""
    steps, figures = spy_on_minibatches(monkeypatch), []
    for packs in (False, True):
        settings = config(value__kind=kind, minibatch_size=4, epochs=2)
        one = trainer(mixture, tmp_path / str(packs), settings)
        models = [
            *backbones(one.actor),
            one.scoring.reward.sources[0]._model,
            one.scoring.reference._model,
        ]
        for model in models:
            model.attend("sdpa", packs)
        steps.clear()
        figures.append(one.optimise(0, experience_of(one)))
        assert steps[0][1] == 1.0
    assert figures[1] == pytest.approx(figures[0], rel=1e-3, abs=1e-5)


def test_log_probabilities_are_those_of_the_sampling_distribution(mixture, tmp_path):
    """Checklist 9"""
    one = trainer(mixture, tmp_path, config(sampling__temperature=0.7))
    rollout = one.roll_out(0)
    warm, cold = [], []
    with torch.no_grad():
        for ids, start, found in zip(
            rollout.sequences, rollout.starts, rollout.logprobs, strict=True
        ):
            logits = one.actor.policy.model(input_ids=ids[None]).logits[0, start - 1 : -1]
            for ratios, temperature in ((cold, 0.7), (warm, 1.0)):
                logprobs = (logits / temperature).log_softmax(-1)
                plain = logprobs.gather(1, ids[start:, None]).squeeze(1)
                ratios.append((plain - found).exp())
    assert float((torch.cat(cold) - 1).abs().max()) < 1e-4
    assert float((torch.cat(warm) - 1).abs().max()) > 0.05


def test_several_responses_to_each_prompt(mixture, tmp_path):
    seed = 6  # no two responses end at once, which would make them the same
    settings = config(responses_per_prompt=4, minibatch_size=4, seed=seed)
    one = trainer(mixture, tmp_path, settings)
    experience = experience_of(one)
    rollout = experience.rollout
    prompts = [tuple(row["input_ids"]) for row in rollout.examples]
    assert prompts == [prompts[0]] * 4 + [prompts[4]] * 4
    assert prompts[0] != prompts[4]
    assert len({tuple(ids.tolist()) for ids in rollout.sequences}) == 8, "each its own draws"
    for parts in (one._minibatches(0, epoch, 0) for epoch in range(3)):
        assert sorted(map(sorted, parts)) == [[0, 1, 2, 3], [4, 5, 6, 7]], "prompts stay whole"


def test_sampling_uses_the_configured_temperature(monkeypatch, mixture, tmp_path):
    """Checklist 9"""
    seen = []
    original = sampler.generate
    monkeypatch.setattr(
        sampler, "generate", lambda *a, **k: seen.append((*a[4:], *k.values())) or original(*a, **k)
    )
    trainer(mixture, tmp_path, config(sampling__temperature=0.7)).roll_out(0)
    assert seen == [(0.7, Decoding())]


@pytest.mark.parametrize("kind", ["head", "critic"])
@pytest.mark.parametrize("each", [1, 2, 4])
def test_old_logprobs_and_values_equal_the_training_forward(mixture, tmp_path, kind, each):
    """Checklist 31"""
    settings = config(minibatch_size=4, value__kind=kind, responses_per_prompt=each)
    one = trainer(mixture, tmp_path, settings)
    torch.nn.init.normal_(next(one.actor.value.parameters()), std=0.1)  # values are not all 0
    rollout = one.roll_out(0)
    checked = 0
    for rows in (each.rows for part in one._rounds(0, 0, rollout.lengths) for each in part):
        logprobs, values, _ = one.actor(
            [rollout.sequences[i] for i in rows], [rollout.starts[i] for i in rows], True
        )
        assert logprobs.requires_grad
        assert values.requires_grad
        assert torch.equal(logprobs, torch.cat([rollout.logprobs[i] for i in rows]))
        assert torch.equal(values, torch.cat([rollout.values[i] for i in rows]))
        assert values.abs().max() > 0
        checked += len(rows)
    assert checked == 8
    assert not any(part.requires_grad for part in [*rollout.logprobs, *rollout.values])


def test_ids_stay_ids_from_the_rollout_through_the_optimizer(monkeypatch, mixture, tmp_path):
    """Checklist 4"""
    seen, sampled = {}, []
    for module, name in ((rewards, "score"), (references, "sequence_logprobs")):
        inner = getattr(module, name)
        monkeypatch.setattr(
            module,
            name,
            lambda model, sequences, *a, name=name, inner=inner: (
                seen.update({name: list(sequences)}) or inner(model, sequences, *a)
            ),
        )
    original = sampler.generate
    monkeypatch.setattr(
        sampler, "generate", lambda *a, **k: sampled.extend(original(*a, **k)) or sampled
    )
    one = trainer(mixture, tmp_path, config(minibatch_size=2, epochs=2))
    trained = []
    one.actor.register_forward_pre_hook(
        lambda _, arguments: trained.extend(zip(arguments[0], arguments[1], strict=True))
    )
    experience = experience_of(one)
    rollout = experience.rollout
    one.optimise(0, experience)
    prompts = [torch.tensor(row["input_ids"]) for row in PromptStream(mixture, 0).take(8)]
    whole = [
        prompt.numpy().tobytes() + response.ids.numpy().tobytes()
        for prompt, response in zip(prompts, sampled, strict=True)
    ]
    assert len(set(whole)) == 8
    for sequences in (rollout.sequences, seen["sequence_logprobs"]):
        assert [ids.numpy().tobytes() for ids in sequences] == whole
    for judged, ids in zip(seen["score"], rollout.sequences, strict=True):
        assert torch.equal(judged[:-1], ids[:-1])
        assert judged[-1] == EOS  # the reward model sees whole replies only
    assert not rollout.ended.all()
    assert len(trained) == 3 * 8  # old log probabilities, then two epochs
    starts = dict(zip(whole, map(len, prompts), strict=True))
    assert {ids.numpy().tobytes() for ids, _ in trained} == set(whole)
    assert all(starts[ids.numpy().tobytes()] == start for ids, start in trained)


def test_responses_are_masked_from_prompt_to_eos(mixture, tmp_path):
    """Checklist 34"""
    one = trainer(mixture, tmp_path, config(rollout_batch_size=32, minibatch_size=32))
    experience = experience_of(one)
    rollout, credit = experience.rollout, experience.credit
    assert 0 < int(rollout.ended.sum()) < 32
    for i, (ids, start) in enumerate(zip(rollout.sequences, rollout.starts, strict=True)):
        response = ids[start:]
        known = (rollout.logprobs, rollout.values, experience.reference)
        parts = (*known, credit.advantages, credit.returns)
        assert {len(part[i]) for part in parts} == {len(response)}
        if rollout.ended[i]:
            assert response.tolist().index(EOS) == len(response) - 1
        else:
            assert EOS not in response
            assert len(response) == 10
    counted = []
    original = policy_module.policy_loss
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            policy_module,
            "policy_loss",
            lambda new, *a: counted.append(len(new)) or original(new, *a),
        )
        one.optimise(0, experience)
    assert sum(counted) == sum(
        len(ids) - start for ids, start in zip(rollout.sequences, rollout.starts, strict=True)
    )


def test_a_missing_eos_costs_the_penalty(mixture, tmp_path):
    """Checklist 33"""
    settings = config(rollout_batch_size=32, minibatch_size=32, kl__coefficient=0.0, lam=1.0,
                      rewards__missing_eos_penalty=0.75, rewards__clip=0.5)  # fmt: skip
    experience = experience_of(trainer(mixture, tmp_path, settings))
    rollout = experience.rollout
    mean, std = CALIBRATION
    plain = ((experience.raw_scores - mean) / std).clamp(-0.5, 0.5)
    expected = torch.where(rollout.ended, plain, plain - 0.75)
    torch.testing.assert_close(experience.scores, expected)
    assert 0 < int(rollout.ended.sum()) < 32
    # without KL and with λ = 1 every return is the score, so it arrives nowhere twice
    for score, returns in zip(experience.scores, experience.credit.returns, strict=True):
        torch.testing.assert_close(returns, score.expand(len(returns)), atol=1e-5, rtol=0)


def test_minibatches_are_an_exact_partition_reshuffled_each_epoch(mixture, tmp_path):
    """Checklist 32"""
    one = trainer(mixture, tmp_path, config(rollout_batch_size=24, minibatch_size=8))
    parts = {(u, e): one._minibatches(u, e, 0) for u in range(2) for e in range(4)}
    for minibatches in parts.values():
        assert [len(part) for part in minibatches] == [8, 8, 8]
        assert sorted(i for part in minibatches for i in part) == list(range(24))
    assert len({json.dumps(minibatches) for minibatches in parts.values()}) == 8
    assert parts[1, 2] == one._minibatches(1, 2, 0)
    assert parts[0, 0][0] != sorted(parts[0, 0][0])


@pytest.mark.parametrize("kind", ["head", "critic"])
def test_accumulation_is_exact(mixture, tmp_path, kind):
    """Checklist 32"""
    one = trainer(mixture, tmp_path, config(value__kind=kind), micro_batch_tokens=40)
    experience = experience_of(one)
    rollout, credit = experience.rollout, experience.credit
    found, counts = {}, []
    for tokens in (1, 40, 10_000):
        one.micro_batch_tokens = tokens
        (rounds,) = one._rounds(0, 0, rollout.lengths)
        counts.append(len(rounds))
        one.actor.zero_grad()
        measured, _ = one._accumulate(experience, rounds)
        found[tokens] = measured, gradients(one.actor)
    assert counts[0] == 8 > counts[1] > counts[2] == 1
    for tokens in (1, 40):
        assert_gradients_near(found[tokens][1], found[10_000][1])
        assert found[tokens][0] == pytest.approx(found[10_000][0], abs=1e-5)
    # token-weighted: the sum over all tokens, divided by their number, once
    one.actor.zero_grad()
    logprobs, values, _ = one.actor(rollout.sequences, rollout.starts)
    old, advantages, returns = (
        torch.cat(part) for part in (rollout.logprobs, credit.advantages, credit.returns)
    )
    policy_part = -(advantages * (logprobs - old).exp()).mean()
    value_part = 0.5 * ((values - returns) ** 2).mean()
    (policy_part + 0.1 * value_part).backward()
    assert_gradients_near(gradients(one.actor), found[10_000][1])


NAMED = (
    "reward", "kl", "kl_coefficient", "response_length", "eos_rate", "entropy", "approx_kl",
    "clip_fraction", "max_ratio", "value_loss", "policy_loss", "explained_variance",
    "learning_rate",
)  # fmt: skip


def records_of(run):
    return run.journals["metrics"].records()


@pytest.mark.parametrize("kind", ["head", "critic"])
def test_every_measure_is_there_and_finite(mixture, tmp_path, kind):
    """Checklist 35, 37"""
    settings = config(
        value__kind=kind, updates=3, epochs=2, minibatch_size=4, rewards__scaling="running",
        rewards__whiten=True, kl__controller="adaptive",
    )  # fmt: skip
    records = records_of(trainer(mixture, tmp_path, settings).train())
    assert [record["step"] for record in records] == [1, 2, 3]
    for record in records:
        assert set(NAMED) <= record.keys()
        assert all(math.isfinite(value) for value in record.values())
        assert 0 <= record["eos_rate"] <= 1
        assert 1 <= record["response_length"] <= 10
        assert 0 < record["entropy"] <= math.log(24)
        assert record["approx_kl"] >= 0
        assert record["max_ratio"] > 1
        assert record["explained_variance"] <= 1
        assert record["optimizer_steps"] == 4
    rates = [record["learning_rate"] for record in records]
    assert rates == pytest.approx([3e-3, 3e-3 * 0.75, 3e-3 * 0.25])  # cosine


def test_measures_are_those_of_the_rollout(mixture, tmp_path):
    """Checklist 37"""
    one = trainer(mixture, tmp_path, config())
    torch.nn.init.normal_(one.actor.value.linear.weight, std=0.1)
    experience = experience_of(one)
    rollout, raw_scores = experience.rollout, experience.raw_scores
    record = one._measure(experience)
    lengths = [len(part) for part in rollout.logprobs]
    mean, std = CALIBRATION
    returns, values = torch.cat(experience.credit.returns), torch.cat(rollout.values)
    assert record["response_length"] == pytest.approx(sum(lengths) / 8)
    assert record["eos_rate"] == pytest.approx(float(rollout.ended.float().mean()))
    assert record["reward"] == pytest.approx(float(((raw_scores - mean) / std).mean()), rel=1e-5)
    assert record["shaped_score"] == pytest.approx(float(experience.scores.mean()), rel=1e-5)
    explained = 1 - float((returns - values).var() / returns.var())
    assert record["explained_variance"] == pytest.approx(explained, rel=1e-4)
    assert record["tokens"] == sum(map(len, rollout.sequences))


@pytest.mark.parametrize(
    ("precision", "most"), [("float32", 1e-5), ("bfloat16", 1e-2), ("float16", 1e-2)]
)
def test_kl_is_0_before_anything_is_learned(mixture, tmp_path, precision, most):
    """Checklist 20"""
    records = records_of(trainer(mixture, tmp_path, config(precision=precision)).train())
    assert abs(records[0]["kl"]) < most
    assert abs(records[1]["kl"]) > 1e-4
    assert ("loss_scale" in records[0]) == (precision == "float16")


def test_the_reference_and_the_judge_never_change(mixture, tmp_path):
    """Checklist 21"""
    reward, reference, model = judge(), policy(), policy()
    before = digest(reward), digest(reference)
    both = RewardModel(reward, EOS, 64), ReferenceModel(reference, 1.0, 64)
    trainer(mixture, tmp_path, config(epochs=2), *both, model=model).train()
    assert (digest(reward), digest(reference)) == before
    assert digest(model) != before[1]
    assert all(p.grad is None for one in (reward, reference) for p in one.parameters())


@pytest.mark.parametrize("limit", [1e-9, 100.0])
def test_epochs_end_early_when_the_policy_moves_too_far(mixture, tmp_path, limit):
    """Checklist 41"""
    settings = config(epochs=4, minibatch_size=4, max_approx_kl=limit)
    records = records_of(trainer(mixture, tmp_path, settings).train())
    assert [r["optimizer_steps"] for r in records] == [2 if limit < 1 else 8] * 2


def test_beta_follows_the_kl(mixture, tmp_path):
    """Checklist 24"""
    settings = config(updates=3, kl__controller="adaptive", kl__horizon=100)
    records = records_of(trainer(mixture, tmp_path, settings).train())
    expected = 0.1
    for record in records:
        assert record["kl_coefficient"] == pytest.approx(expected)
        error = min(max(record["kl"] / 6 - 1, -0.2), 0.2)
        expected *= 1 + error * 8 / 100
    assert records[-1]["kl_coefficient"] < 0.1


def test_samples_lead_back_to_their_prompts(mixture, tmp_path):
    one = trainer(mixture, tmp_path, config(updates=1))
    rollouts, original = [], one.roll_out
    one.roll_out = lambda update: rollouts.append(original(update)) or rollouts[-1]
    samples = one.train().journals["samples"].records()
    (rollout,) = rollouts
    texts = {row["id"]: row["input_ids"] for row in mixture}
    assert len(samples) == loop.SAMPLES_KEPT
    for i, sample in enumerate(samples):
        sequence, start = rollout.sequences[i], rollout.starts[i]
        assert sample["dataset"] == "d"
        assert texts[sample["id"]] == sequence[:start].tolist()
        assert sample["ended"] == (EOS in sequence[start:].tolist()) == bool(rollout.ended[i])
        assert sample["response"] == "?" * (len(sequence) - start - sample["ended"])
    assert {sample["ended"] for sample in samples} == {True, False}


def test_the_critic_has_a_learning_rate_of_its_own(mixture, tmp_path):
    """Checklist 43"""
    one = trainer(mixture, tmp_path, config(value__kind="critic", value__learning_rate=0.5))
    peaks = {id(p): g["peak"] for g in one.engine._optimizer.param_groups for p in g["params"]}
    assert {peaks[id(p)] for p in one.actor.policy.parameters()} == {3e-3}
    assert {peaks[id(p)] for p in one.actor.value.parameters()} == {0.5}


@pytest.mark.parametrize("kind", ["head", "critic"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_in_two_parts_is_the_same_run(monkeypatch, mixture, tmp_path, kind, precision):
    """Checklist 40"""
    settings = config(
        updates=4, value__kind=kind, minibatch_size=4, kl__controller="adaptive",
        rewards__scaling="running", precision=precision,
    )  # fmt: skip
    straight = trainer(mixture, tmp_path / "straight", settings)
    expected = straight.train()
    original, calls = Replicated.step, []

    def interrupted(engine, *given):
        calls.append(1)
        if len(calls) == 3:  # in the middle of the second update
            os.kill(os.getpid(), signal.SIGUSR2)
        return original(engine, *given)

    monkeypatch.setattr(Replicated, "step", interrupted)
    with pytest.raises(Saved, match="after step 2 of 4"):
        trainer(mixture, tmp_path / "parts", settings).train()
    resumed = trainer(mixture, tmp_path / "parts", settings)
    found = resumed.train()
    assert len(calls) == 8
    assert digest(resumed.actor) == digest(straight.actor)
    for name in ("metrics", "samples"):
        left, right = (
            (run._checkpoints.folder / f"{name}.jsonl").read_bytes() for run in (expected, found)
        )
        assert left == right
        assert len(left.splitlines()) == {"metrics": 4, "samples": 16}[name]
