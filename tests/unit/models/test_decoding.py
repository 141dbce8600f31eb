"""Which tokens can be drawn, and the texts that end a response."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from support.tiny_models import token_scorer, token_sequences
from support.tiny_tokenizers import FAMILIES
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from rlhf.models.decoding import PLAIN, Decoding, StopTexts
from rlhf.models.generate import _invert, generate, uniforms
from rlhf.models.reward import with_final_eos

EOS = 2
VOCABULARY = 24


def restricted(probabilities, step=5, **options):
    return Decoding(**options).restrict(probabilities, step, EOS, _invert)


@pytest.mark.parametrize(
    ("options", "warpers"),
    [
        ({"top_k": 7}, [TopKLogitsWarper(7)]),
        ({"top_k": 2000}, []),
        ({"top_p": 0.7}, [TopPLogitsWarper(0.7)]),
        ({"top_p": 1e-9}, [TopPLogitsWarper(1e-9)]),
        ({"min_p": 0.2}, [MinPLogitsWarper(0.2)]),
        (
            {"top_k": 40, "top_p": 0.9, "min_p": 0.05},
            [TopKLogitsWarper(40), TopPLogitsWarper(0.9), MinPLogitsWarper(0.05)],
        ),
    ],
)
def test_the_tokens_that_remain_are_those_of_transformers(options, warpers):
    """In this order; over more tokens than one block of running sums has."""
    torch.manual_seed(1)
    logits = torch.randn(6, 1300) * torch.tensor([0.1, 0.5, 1, 2, 4, 8])[:, None]
    expected = logits
    for warper in warpers:
        expected = warper(None, expected)
    kept = restricted(logits.softmax(-1), **options)
    assert torch.equal(kept > 0, expected.isfinite() & (logits.softmax(-1) > 0))
    assert torch.equal(kept[kept > 0], logits.softmax(-1)[kept > 0])


def test_a_share_that_some_tokens_just_reach_and_tokens_that_are_alike():
    probabilities = torch.tensor([[0.2, 0.4, 0.1, 0.3], [0.4, 0.2, 0.2, 0.2]])
    kept = restricted(probabilities, top_p=0.7) > 0
    assert kept.tolist() == [[False, True, False, True], [True, True, True, True]]
    kept = restricted(probabilities, top_k=2) > 0
    assert kept.tolist() == [[False, True, False, True], [True, True, True, True]]


@pytest.fixture(scope="module")
def small():
    return token_scorer(3, vocabulary=VOCABULARY)


def test_tokens_are_drawn_in_proportion_and_scored_by_the_whole_distribution(small):
    """float64: p / sum of those that remain; the log probability is log p. Checklist 10"""
    (prompt,), n = token_sequences([6], seed=4, vocabulary=VOCABULARY), 4000
    draws = (torch.arange(n, dtype=torch.float64)[:, None] + 0.5) / n
    decoding = Decoding(top_p=0.6)
    responses = generate(small, [prompt] * n, draws, EOS, 0.7, max_rows=n, decoding=decoding)
    with torch.no_grad():
        logits = small.model(input_ids=prompt[None]).logits[0, -1].double() / 0.7
    p = logits.softmax(-1)
    order = p.argsort(descending=True)
    nucleus = order[: int((p[order].cumsum(0) < 0.6).sum()) + 1]
    counts = Counter(int(one.ids[0]) for one in responses)
    assert counts.keys() == set(nucleus.tolist())
    assert 1 < len(counts) < VOCABULARY
    for token in nucleus.tolist():
        assert counts[token] / n == pytest.approx(float(p[token] / p[nucleus].sum()), abs=2 / n)
    for one in responses[:: n // 10]:
        assert one.logprob == pytest.approx(float(p[one.ids[0]].log()), abs=1e-5)


RESTRICTED = Decoding(top_k=12, top_p=0.8, min_p=0.02, min_new_tokens=3)


def test_a_response_does_not_depend_on_its_batch(small):
    prompts = token_sequences([1 + i % 7 for i in range(12)], seed=6, vocabulary=VOCABULARY)
    draws = uniforms(np.random.default_rng(2), 12, 20)
    together = generate(small, prompts, draws, EOS, decoding=RESTRICTED)
    free = generate(small, prompts, draws, EOS)
    for i, prompt in enumerate(prompts):
        (alone,) = generate(small, [prompt], draws[[i]], EOS, decoding=RESTRICTED)
        assert alone.ids.tolist() == together[i].ids.tolist()
    assert [one.ids.tolist() for one in free] != [one.ids.tolist() for one in together]
    assert [one.ids.tolist() for one in free] == [
        one.ids.tolist() for one in generate(small, prompts, draws, EOS, decoding=PLAIN)
    ]


@pytest.mark.parametrize("temperature", [1.0, 0])
def test_no_response_ends_before_it_may(small, temperature):
    prompts = token_sequences([4] * 64, seed=7, vocabulary=VOCABULARY)
    draws = uniforms(np.random.default_rng(3), 64, 12)
    eos = EOS
    if temperature == 0:  # whatever is most probable somewhere
        eos = int(generate(small, prompts, draws, -1, 0)[0].ids[2])
    lengths = [
        [len(one.ids) for one in generate(small, prompts, draws, eos, temperature, decoding=each)]
        for each in (PLAIN, Decoding(min_new_tokens=6))
    ]
    assert min(lengths[0]) < 6
    assert min(lengths[1]) == 7 if temperature else min(lengths[1]) > 6
    for ids in generate(small, prompts, draws, eos, temperature,
                        decoding=Decoding(min_new_tokens=6)):  # fmt: skip
        assert eos not in ids.ids[:6].tolist()


class Letters:
    """Token 3 is `a`, and so on; the others are special ones, and one letter too."""

    def decode(self, ids, skip_special_tokens, clean_up_tokenization_spaces):
        assert not skip_special_tokens
        return "".join(chr(ord("a") + i - 3) if i >= 3 else str(i) for i in ids)


def test_sampling_stops_where_the_text_does(small):
    prompts = token_sequences([5] * 32, seed=8, vocabulary=VOCABULARY)
    draws = uniforms(np.random.default_rng(4), 32, 24)
    free = generate(small, prompts, draws, EOS)
    letters = Letters()
    texts = [letters.decode(one.ids.tolist(), False, False) for one in free]
    longest, other, *_ = sorted(texts, key=len, reverse=True)
    stops = [longest[4:6], other[7], "nowhere"]
    for least in (0, 6):
        decoding = Decoding(stop=StopTexts(letters, stops), min_new_tokens=least)
        plain = Decoding(min_new_tokens=least)
        ended = 0
        for before, after, prompt in zip(
            generate(small, prompts, draws, EOS, decoding=plain),
            generate(small, prompts, draws, EOS, decoding=decoding),
            prompts,
            strict=True,
        ):
            text = letters.decode(before.ids.tolist(), False, False).split("2")[0]
            places = [
                at for stop in stops for at in range(len(text))
                if text.startswith(stop, at) and max(1, at) >= least
            ]  # fmt: skip
            assert decoding.kept(prompt.tolist(), before.ids.tolist(), EOS) == (
                max(1, min(places, default=0)) if places else None
            )
            if places:
                ended += 1
                assert after.ended
                assert after.ids.tolist() == before.ids[: max(1, min(places))].tolist()
                assert torch.equal(after.logprobs, before.logprobs[: len(after.ids)])
                assert after.logprob == pytest.approx(float(after.logprobs.sum()), rel=1e-5)
            elif not places:
                assert after.ids.tolist() == before.ids.tolist()
                assert after.ended == before.ended
        assert ended > 3


TEXTS = (
    "Fine, I think.\n\nHuman: and then?",
    "Human: at once",
    "No stop in here, though Hum an: is near.",
    "\u4f60\u597d\u3002\n\n\u554f\uff1a\u597d\u55ce\uff1f\U0001f600 Human",
    "\U0001f600\U0001f601 the end \U0001f602\U0001f603",
)
STOPS = ("Human:", "\u554f\uff1a", "\U0001f602")


@pytest.mark.parametrize("family", ["pythia", "llama", "llama3", "bloom"])
@pytest.mark.parametrize("text", TEXTS)
def test_tokens_before_the_stop_text_remain(family, text):
    """By the bytes of each token, where a token may be a part of a character."""
    tokenizer = FAMILIES[family][1]()
    prompt = tokenizer.encode("Human: Hi!\n\nAssistant:", add_special_tokens=False)
    ids = tokenizer.encode(" " + text, add_special_tokens=False)
    scan = StopTexts(tokenizer, STOPS).scan(prompt)
    found = [scan.push(token) for token in ids]
    known = next((i for i, kept in enumerate(found) if kept is not None), None)

    def says(count):
        whole = tokenizer.decode(prompt + ids[:count], clean_up_tokenization_spaces=False)
        return whole[len(tokenizer.decode(prompt, clean_up_tokenization_spaces=False)) :]

    stops = [says(len(ids)).find(stop) for stop in STOPS if stop in says(len(ids))]
    assert (known is None) == (not stops)
    if known is None:
        return
    kept, first = found[known], min(stops)
    assert any(stop in says(known + 1) for stop in STOPS), "it was complete with this token"
    assert not any(stop in says(known) for stop in STOPS), "and not before"
    if kept > 1:
        assert len(says(kept).rstrip("\ufffd")) <= first, "no token with a character of it"
    text_of_next = says(kept + 1)
    # One more token would be a part of it, or the one with which its first character is whole.
    assert len(text_of_next) > first or text_of_next.endswith("\ufffd")


def test_a_token_may_hold_the_end_of_the_reply_and_the_beginning_of_the_stop_text():
    class Pieces:
        words = ("Yes", ".\n", "\nHu", "man", ":", " no")

        def decode(self, ids, **_):
            return "".join(self.words[i] for i in ids)

    def kept(*stops, least=0):
        scan = StopTexts(Pieces(), stops).scan([], least)
        return [scan.push(i) for i in range(6)]

    assert kept("\n\nHuman:") == [None, None, None, None, 1, None]
    assert kept("Human:")[4] == 2
    assert kept("man")[3] == 3
    assert kept("Yes")[0] == 1, "at least one remains"
    assert kept("Yes", "Human:", least=2) == [None, None, None, None, 2, None]
    assert kept("\n", "Yes.", least=1)[1] == 1


def test_the_reward_model_sees_an_eos_in_place_of_a_stop_text():
    stopped, whole, cut = (torch.tensor(ids) for ids in ([5, 6, 30], [5, 6, EOS], [5, 6, 30]))
    found = with_final_eos([stopped, whole, cut], [True, True, False], EOS)
    assert [ids.tolist() for ids in found] == [[5, 6, 30, EOS], [5, 6, EOS], [5, 6, EOS]]
