from __future__ import annotations

import numpy as np
import pytest
import torch
from support.tiny_models import token_scorer, token_sequences
from support.tolerances import assert_near

from rlhf.core.seeds import generator
from rlhf.models import generate as module
from rlhf.models.generate import generate, uniforms
from rlhf.models.roots import TokenScorer, from_starts

NEVER = -1  # an EOS that no token equals


def ids_of(responses):
    return [response.ids.tolist() for response in responses]


@pytest.fixture(scope="module")
def small():
    """24 tokens, so any of them, EOS too, is sampled now and then."""
    return token_scorer(3, vocabulary=24)


def test_greedy_equals_transformers_on_ragged_prompts():
    model, steps = token_scorer(1), 12
    prompts = token_sequences([3, 17, 8, 8, 1, 11], seed=4)
    draws = uniforms(np.random.default_rng(0), len(prompts), steps)
    free = ids_of(generate(model, prompts, draws, NEVER, temperature=0))
    eos = free[1][4]  # an EOS that some rows reach early
    width = max(map(len, prompts))
    ids, mask = torch.zeros(6, width, dtype=torch.long), torch.zeros(6, width, dtype=torch.long)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = prompt
        mask[i, width - len(prompt) :] = 1
    whole = model.model.eval().generate(
        input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=steps,
        eos_token_id=eos, pad_token_id=0,
    )  # fmt: skip
    expected = []
    for row in whole[:, width:].tolist():
        expected.append(row[: row.index(eos) + 1] if eos in row else row)
    assert ids_of(generate(model, prompts, draws, eos, temperature=0)) == expected
    assert {len(row) for row in expected} != {steps}, "no row ended early"


def learned_positions():
    """A model that knows absolute positions; rotary ones only show differences."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=300, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3
    )
    return TokenScorer(GPT2LMHeadModel(config).eval())


@pytest.mark.parametrize(
    "make", [lambda: token_scorer(1), learned_positions], ids=["llama", "gpt2"]
)
def test_left_padding_changes_no_logit(monkeypatch, make):
    """Checklist 3"""
    model = make()
    prompts = token_sequences([4, 23, 10], seed=5)
    draws = uniforms(np.random.default_rng(1), 3, 6)
    seen = []
    original = module._sample
    monkeypatch.setattr(
        module,
        "_sample",
        lambda logits, *rest: seen.append(logits.clone()) or original(logits, *rest),
    )
    generate(model, prompts, draws, NEVER)
    together = torch.stack(seen)  # [steps, rows, V], the longest prompt first
    for row, i in enumerate([1, 2, 0]):
        seen.clear()
        generate(model, [prompts[i]], draws[[i]], NEVER)
        assert_near(together[:, [row]], torch.stack(seen))


def test_keys_and_values_have_the_room_that_there_is(monkeypatch, small):
    """A row of 5 + 4 tokens has 2 × 2 layers × 2 heads × 8 numbers of 4 bytes for each token."""
    prompts = token_sequences([5] * 7, seed=6, vocabulary=24)
    draws = uniforms(np.random.default_rng(3), 7, 4)
    expected, together = ids_of(generate(small, prompts, draws, NEVER)), []
    original = module._decode
    monkeypatch.setattr(
        module, "_decode", lambda policy, rows, *rest: together.append(len(rows)) or original(
            policy, rows, *rest
        ),
    )  # fmt: skip
    monkeypatch.setattr(module, "CACHE_BYTES", 3 * 9 * 2 * 2 * 2 * 8 * 4)
    assert ids_of(generate(small, prompts, draws, NEVER)) == expected
    assert together == [3, 3, 1]
    monkeypatch.setattr(module, "CACHE_BYTES", 1)
    assert ids_of(generate(small, prompts[:2], draws[:2], NEVER)) == expected[:2]


def test_compaction_changes_nothing(monkeypatch, small):
    prompts = token_sequences([1 + i % 7 for i in range(24)], seed=6, vocabulary=24)
    draws = uniforms(np.random.default_rng(2), 24, 40)
    selections = []
    original = module._Slots.batch_select_indices
    monkeypatch.setattr(
        module._Slots,
        "batch_select_indices",
        lambda layer, keep: selections.append(len(keep)) or original(layer, keep),
    )
    monkeypatch.setattr(module, "COMPACT_SHARE", 2.0)
    never = ids_of(generate(small, prompts, draws, 2))
    assert not selections
    monkeypatch.setattr(module, "COMPACT_SHARE", 0.01)
    always = ids_of(generate(small, prompts, draws, 2))
    assert len(selections) > 10
    assert always == never


def test_a_row_does_not_depend_on_its_batch(small):
    """Checklist 36"""
    prompts = token_sequences([2 + i % 5 for i in range(20)], seed=7, vocabulary=24)
    draws = uniforms(np.random.default_rng(3), 20, 15)
    whole = ids_of(generate(small, prompts, draws, 2))
    assert len({tuple(row) for row in whole}) > 15
    assert whole == ids_of(generate(small, prompts, draws, 2, max_rows=3))
    alone = [generate(small, [p], draws[[i]], 2)[0].ids.tolist() for i, p in enumerate(prompts)]
    assert whole == alone
    for rank in range(2):
        assert ids_of(generate(small, prompts[rank::2], draws[rank::2], 2)) == whole[rank::2]


def test_rows_with_one_prompt_compute_it_once(small):
    seen, layer = [], small.model.base_model.layers[0]
    one, other = token_sequences([6, 4], seed=9, vocabulary=24)
    prompts, draws = [one, other, one, one], uniforms(np.random.default_rng(5), 4, 8)
    alone = [generate(small, [p], draws[[i]], 2)[0].ids.tolist() for i, p in enumerate(prompts)]
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[:2]))
    assert ids_of(generate(small, prompts, draws, 2)) == alone
    hook.remove()
    assert sum(rows for rows, width in seen if width > 1) == 2


def test_other_draws_give_other_responses(small):
    prompts = token_sequences([4] * 4, seed=8, vocabulary=24)
    first, second = (uniforms(np.random.default_rng(seed), 4, 10) for seed in (1, 2))
    one, other = (ids_of(generate(small, prompts, draws, NEVER)) for draws in (first, second))
    assert one != other
    same = [prompts[0]] * 4
    assert len({tuple(row) for row in ids_of(generate(small, same, first, 2))}) == 4


def test_eos_ends_a_response_and_is_part_of_it(small):
    """Checklist 34"""
    prompts = token_sequences([5] * 64, seed=9, vocabulary=24)
    responses = generate(small, prompts, uniforms(np.random.default_rng(4), 64, 30), eos_id=2)
    assert {response.ended for response in responses} == {True, False}
    for response in responses:
        assert response.ended == (2 in response.ids)
        if response.ended:
            assert response.ids.tolist().index(2) == len(response.ids) - 1
        else:
            assert len(response.ids) == 30


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_max_new_tokens(small, steps):
    prompts = token_sequences([5, 2], seed=10, vocabulary=24)
    responses = generate(small, prompts, uniforms(np.random.default_rng(5), 2, steps), NEVER)
    assert [len(response.ids) for response in responses] == [steps, steps]
    assert not any(response.ended for response in responses)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_frequencies_are_the_softmax(small, temperature):
    """Checklist 9, 10"""
    (prompt,) = token_sequences([6], seed=11, vocabulary=24)
    count = 6000
    draws = uniforms(np.random.default_rng(6), count, 1)
    responses = generate(small, [prompt] * count, draws, NEVER, temperature, max_rows=count)
    with torch.no_grad():
        logits = small.model(input_ids=prompt[None]).logits[0, -1]
    expected = (logits / temperature).softmax(-1).double().numpy() * count
    found = np.bincount([int(response.ids[0]) for response in responses], minlength=24)
    statistic = ((found - expected) ** 2 / expected).sum()
    assert statistic < 49.7, "chi-square, 23 degrees of freedom, p = 0.001"
    wrong = (logits / (1.7 - temperature)).softmax(-1).double().numpy() * count
    assert ((found - wrong) ** 2 / wrong).sum() > 49.7, "the test could not tell temperatures apart"


def test_sampling_inverts_the_cumulative_distribution():
    logits = torch.tensor([[0.25, 0.0, 0.5, 0.25]]).log().repeat(6, 1)
    draws = torch.tensor([0.0, 0.2, 0.26, 0.7, 0.76, 1 - 2**-24])
    tokens, logprobs = module._sample(logits, draws, 1.0)
    assert tokens.tolist() == [0, 0, 2, 2, 3, 3]
    torch.testing.assert_close(logprobs.exp(), torch.tensor([0.25, 0.25, 0.5, 0.5, 0.25, 0.25]))
    assert module._sample(logits, draws, 0)[0].tolist() == [2] * 6


def test_tokens_all_over_a_large_vocabulary_can_be_drawn():
    """Half of it is tokens of 1e-8 each, behind one that has nearly all.

    Every 13th of them: each place in a block is among them.
    """
    vocabulary, rare = 151_936, 75_968
    probabilities = torch.full((1, vocabulary), 1e-8)
    probabilities[:, :-rare] = 0
    probabilities[0, 7] = 1 - rare * 1e-8
    edges = probabilities.double().cumsum(-1)[0]
    edges /= edges[-1].item()
    tokens = torch.arange(vocabulary - rare, vocabulary, 13)
    assert set((tokens % module.BLOCK).tolist()) == set(range(module.BLOCK))
    draws = (edges[tokens - 1] + edges[tokens]) / 2  # the middle of what belongs to each
    for own, part in zip(tokens.split(256), draws.split(256), strict=True):
        drawn, logprobs = module._sample(probabilities.log().expand(len(part), -1), part, 1.0)
        assert torch.equal(drawn, own)
        torch.testing.assert_close(logprobs.exp(), torch.full((len(part),), 1e-8))


def test_running_sums_by_a_product_are_running_sums():
    parts = torch.rand(5, 300)
    found = module._summed_by_product(parts)
    torch.testing.assert_close(found, parts.cumsum(-1, dtype=torch.float64), rtol=1e-14, atol=0)


def test_nothing_without_probability_is_drawn():
    logits = torch.full((3, 1000), float("-inf"))
    logits[:, 600] = 0.0
    draws = torch.tensor([0.0, 0.5, 1 - 2.0**-48], dtype=torch.float64)
    assert module._sample(logits, draws, 1.0)[0].tolist() == [600] * 3


def test_draws_tell_tokens_apart_that_a_float32_does_not():
    draws = uniforms(np.random.default_rng(1), 2000, 50)
    assert not torch.equal(draws, draws.float().double())
    low = (draws * 2**24).frac()
    assert (low >= 0).all()
    counts = torch.histc(low.float(), 10, 0, 1)
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 27.9, "chi-square, 9 degrees, p = 0.001"


def test_a_response_knows_its_log_probability():
    model, prompts = token_scorer(), token_sequences([4, 7])
    draws = uniforms(np.random.default_rng(1), 2, 6)
    responses = generate(model, prompts, draws, eos_id=2, temperature=0.7)
    for prompt, response in zip(prompts, responses, strict=True):
        sequence = torch.cat([prompt, response.ids])
        logprobs, _ = model([sequence], from_starts([sequence], [len(prompt)]), 0.7)
        assert response.logprob == pytest.approx(logprobs.sum().item(), abs=1e-4)


def test_uniforms_are_the_same_for_any_number_of_ranks():
    """Checklist 36"""
    whole = uniforms(generator(7, "rollout", 3), 8, 5)
    assert whole.shape == (8, 5)
    assert whole.dtype == torch.float64
    assert 0 <= whole.min() < whole.max() < 1
    assert torch.equal(whole, uniforms(generator(7, "rollout", 3), 8, 5))
    assert not torch.equal(whole, uniforms(generator(7, "rollout", 4), 8, 5))
    assert not torch.equal(whole, uniforms(generator(8, "rollout", 3), 8, 5))
