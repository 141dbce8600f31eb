"""One pass over a history that k replies share, and the remembered frozen trunk."""

from __future__ import annotations

import pytest
import torch
from support.tiny_models import gradients, reply_scorer, token_scorer, token_sequences
from support.tiny_settings import reward_config
from support.tolerances import assert_gradients_near, assert_near, rounding

from rlhf.algorithms.reward import RewardObjective, score_rows
from rlhf.models import backbone
from rlhf.models.roots import ReplyScorer, from_starts
from rlhf.models.scoring import score, sequence_logprobs


def preference_rows() -> list[dict[str, list]]:
    history, *replies = token_sequences([9, 5, 1, 12, 7], seed=3)
    other, *more = token_sequences([4, 6, 6], seed=4)
    return [
        {"history_ids": history.tolist(), "reply_ids": [r.tolist() for r in replies]},
        {"history_ids": other.tolist(), "reply_ids": [r.tolist() for r in more]},
    ]


@pytest.mark.parametrize("frozen", [0, 1])
def test_shared_history_equals_separate_sequences(
    frozen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In values and in gradients: in a tiny model's scores a leaking mask hardly shows."""
    rows = preference_rows()
    results = []
    for shared in (True, False):
        monkeypatch.setattr(ReplyScorer, "branches", shared)
        objective = RewardObjective(reward_config(0.01), shared)
        model = reply_scorer(num_hidden_layers=3)
        model.freeze(frozen)
        loss, measures = objective(model, rows)
        loss.backward()
        results.append((loss.item(), measures, gradients(model)))
    (loss, measures, found), (plain_loss, plain_measures, expected) = results
    assert_near(loss, plain_loss)
    assert measures == plain_measures
    assert_gradients_near(found, expected)


def test_a_reply_never_sees_another() -> None:
    """Changing one reply leaves the others' scores exactly as they were."""
    model, rows = reply_scorer(), preference_rows()
    before = score_rows(model, rows)[0]
    rows[0]["reply_ids"][1] = [7]
    after = score_rows(model, rows)[0]
    assert after[1] != before[1]
    torch.testing.assert_close(after[[0, 2, 3]], before[[0, 2, 3]], atol=0, rtol=0)


def test_scores_depend_on_the_history() -> None:
    """Checklist 1: the reward model sees query and response."""
    model, rows = reply_scorer(), preference_rows()
    before = score_rows(model, rows)[0]
    rows[0]["history_ids"][0] += 1
    assert not torch.allclose(score_rows(model, rows)[0], before, atol=rounding())


def test_the_trunk_changes_nothing_but_the_work() -> None:
    sequences = token_sequences([6, 11, 3])
    plain = token_scorer(num_hidden_layers=4)
    expected = plain.hidden_states(sequences)
    cut = token_scorer(num_hidden_layers=4)
    cut.freeze(3)
    for _ in range(2):  # computed, then remembered
        found = cut.hidden_states(sequences)
        for i, sequence in enumerate(sequences):
            n = len(sequence)
            assert_near(found[i, :n], expected[i, :n])
    assert len(cut.model.model.base_model.layers) == 4  # whole again


def test_the_trunk_remembers_and_forgets() -> None:
    sequences = token_sequences([8, 8, 8])
    model = token_scorer(num_hidden_layers=4)
    model.freeze(2)
    seen = []
    layer = model.model.base_model.layers[0]
    layer.register_forward_hook(lambda *_: seen.append(1))
    model.hidden_states(sequences)
    model.hidden_states(sequences)
    assert len(seen) == 3
    model._trunk._max_bytes = 2 * 8 * 32 * 4  # room for two
    model.hidden_states(token_sequences([8], seed=9))
    model.hidden_states(sequences[2:])  # the most recently used stayed
    assert len(seen) == 4
    model.hidden_states(sequences[:1])
    assert len(seen) == 5


def test_what_is_remembered_does_not_depend_on_the_batch() -> None:
    """A resumed run meets rows in other company, and must give the same bytes."""
    first, second = token_sequences([5, 13])
    alone, together = token_scorer(num_hidden_layers=3), token_scorer(num_hidden_layers=3)
    for model in (alone, together):
        model.freeze(2)
    together.hidden_states([first, second])
    assert torch.equal(alone._trunk.lower(first), together._trunk.lower(first))


def test_models_with_other_masks_score_separately(monkeypatch: pytest.MonkeyPatch) -> None:
    model = reply_scorer()
    model.model.config._attn_implementation = "eager"
    assert not model.branches
    rows = preference_rows()
    monkeypatch.setattr(ReplyScorer, "branched_hidden_states", None)
    assert [len(row) for row in score_rows(model, rows)] == [4, 2]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_replies_to_one_prompt_share_it_and_change_nothing(attention: str) -> None:
    model = token_scorer(num_hidden_layers=2).eval()
    model.model.config._attn_implementation = attention
    first, second, *replies = token_sequences([7, 2, 5, 1, 9, 3])
    prompts = [first, second, first, first]
    sequences = [torch.cat(pair) for pair in zip(prompts, replies, strict=True)]
    found = sequence_logprobs(model, sequences, [len(prompt) for prompt in prompts], 0.7, 32)
    for prompt, answer, got in zip(prompts, replies, found, strict=True):
        logits = model.model(torch.cat([prompt, answer])[None]).logits[0, len(prompt) - 1 : -1]
        expected = (logits / 0.7).log_softmax(-1).gather(1, answer[:, None]).squeeze(1)
        assert_near(got, expected)


def test_a_shared_prompt_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = token_scorer(num_hidden_layers=2).eval(), []
    model.model.base_model.layers[0].register_forward_pre_hook(
        lambda _layer, given, kwargs: seen.append(given[0].shape[:2].numel()), with_kwargs=True
    )
    prompt, *replies = token_sequences([9, 5, 4, 6])
    sequences = [torch.cat([prompt, reply]) for reply in replies]
    sequence_logprobs(model, sequences, [9] * 3, 1.0, 512)
    assert seen == [8 + 5 + 4 + 6]  # each branch begins with the last token of the prompt
    seen.clear()
    score(reward := reply_scorer(), sequences, prompts=[9] * 3)
    monkeypatch.setattr(backbone, "BRANCHED_TOKENS", 20)
    one_by_one = score(reward, sequences[:1]), score(reward, sequences[1:2])
    assert_near(score(reward, sequences, prompts=[9] * 3)[:2], torch.cat(one_by_one))


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_shared_prompt_has_the_gradients_of_separate_ones(frozen: int) -> None:
    prompt, other, *replies = token_sequences([9, 4, 5, 1, 12, 7], seed=3)
    prompts = [prompt, prompt, other, prompt]
    sequences = [torch.cat(pair) for pair in zip(prompts, replies, strict=True)]
    starts, results = [len(one) for one in prompts], []
    for attention in ("sdpa", "eager"):  # eager: separate
        model = token_scorer(num_hidden_layers=3)
        model.model.config._attn_implementation = attention
        model.freeze(frozen)
        places = from_starts(sequences, starts)
        logprobs, _ = model(sequences, places, prompts=[start - 1 for start in starts])
        (logprobs * torch.arange(len(logprobs))).sum().backward()
        results.append((logprobs.detach(), gradients(model)))
    (found, gradient), (expected, plain) = results
    assert_near(found, expected)
    assert_gradients_near(gradient, plain)
