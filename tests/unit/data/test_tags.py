"""Reply tags: what they say, and that what is drawn belongs to the row."""

from __future__ import annotations

import random

import pytest

from rlhf.core.seeds import row_draws
from rlhf.data.encoding import Encoder
from rlhf.data.labels import IGNORED
from rlhf.data.rows import Conversation, Message, Preference, Prompt, Properties
from rlhf.data.tags import ReplyTags
from rlhf.data.tokenizing import Limits, Tally, tokenize

KNOWN = Properties("en", quality=0.75, humor=0.0, creativity=1, context="Some\ncontext.")
REPLY = Message("assistant", "one two three four five six", KNOWN)
ALL = {"lang: en", "quality: 0.8", "humor: 0.0", "creativity: 1.0", "length: 2"}
USER = Message("user", "q")


def tags(dropout=0.0, length=True):
    return ReplyTags(dropout, length)


def rows(count):
    for i in range(count):
        replies = tuple(f"reply {j}" for j in range(3))
        history = (Message("user", f"question {i}"), REPLY, USER)
        yield Preference(f"p{i}", "g", history, replies, (KNOWN, None, Properties("de")))


def test_properties_in_any_order_and_the_context_last():
    orders = set()
    for seed in range(50):
        lines = tags().write(REPLY, random.Random(seed)).splitlines()
        assert set(lines[:5]) == ALL
        assert lines[5:] == ["context: Some", "context."]
        orders.add(tuple(lines[:5]))
    assert len(orders) > 30


def test_dropout_leaves_properties_out_each_by_itself():
    draw = random.Random(0)
    written = [tags(0.3).write(REPLY, draw) for _ in range(2000)]
    for one in [*ALL, "context: Some"]:
        assert 0.66 < sum(one in text for text in written) / 2000 < 0.74
    assert tags(1.0).write(REPLY, draw) == ""
    assert tags(1.0).before(REPLY, draw) == (REPLY,)


@pytest.mark.parametrize(
    ("text", "length"),
    [("", 1), ("one two three four", 1), ("1 2 3 4 5", 2), ("a_b c-d e", 1), ("ä ö " * 5, 3)],
)
def test_length_is_in_steps_of_five_words(text, length):
    reply = Message("assistant", text)
    assert tags().write(reply, random.Random(0)) == f"length: {length}\n"
    assert tags(length=False).write(reply, random.Random(0)) == ""


def test_only_replies_are_tagged():
    system = Message("system", "s", KNOWN)
    found = list(tags().insert((system, USER, REPLY, USER), random.Random(0)))
    assert [one.role for one in found] == ["system", "user", "system", "assistant", "user"]


def test_a_tag_belongs_to_its_row_whatever_comes_before(make_tokenizer):
    encoder = Encoder(make_tokenizer("oasst", bos=True))
    many = list(rows(300))

    def made(some, seed=0):
        limits = Limits("preference", 500, "error", reply_tags=tags(0.5), seed=seed)
        return {one["id"]: one for one in tokenize(some, encoder, limits, Tally())}

    found = made(many)
    assert made(reversed(many)) == found
    assert made(many[200:201]) == {"p200": found["p200"]}
    assert made(many, seed=1) != found
    assert row_draws(0, "tags", "a").random() != row_draws(0, "offset", "a").random()


def test_where_tags_stand(make_tokenizer):
    """In SFT before the reply and not trained; of ranked replies they are the first part."""
    tokenizer = make_tokenizer("oasst", bos=True)
    encoder, limits = Encoder(tokenizer), {"overlong": "error", "reply_tags": tags(length=False)}
    german = Message("assistant", "ja", Properties("de"))
    row = Conversation("c", "g", (USER, german))
    (sample,) = tokenize([row], encoder, Limits("conversation", 100, **limits), Tally())
    text = "<s><|prompter|>q</s><|system|>lang: de\n</s><|assistant|>ja</s>"
    assert tokenizer.decode(sample["input_ids"]) == text
    assert tokenizer.decode([one for one in sample["labels"] if one != IGNORED]) == "ja</s>"
    row = Preference("p", "g", (USER,), ("ja", "yes"), (Properties("de"), None))
    (sample,) = tokenize([row], encoder, Limits("preference", 100, **limits), Tally())
    assert tokenizer.decode(sample["history_ids"]) == "<s><|prompter|>q</s>"
    assert [tokenizer.decode(one) for one in sample["reply_ids"]] == [
        "<|system|>lang: de\n</s><|assistant|>ja</s>",
        "<|assistant|>yes</s>",
    ]
    (sample,) = tokenize([Prompt("r", "g", (USER,))], encoder, Limits("prompt", 9, "drop"), Tally())
    assert tokenizer.decode(sample["input_ids"]) == "<s><|prompter|>q</s><|assistant|>"


def test_replies_that_differ_by_their_tag_only_are_one(make_tokenizer):
    from tokenizers import normalizers

    tokenizer = make_tokenizer("oasst")
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    row = Preference("p", "g", (USER,), ("Yes", "yes", "no"), (KNOWN, None, None))
    tally, limits = Tally(), Limits("preference", 100, "error", reply_tags=tags())
    (sample,) = tokenize([row], Encoder(tokenizer), limits, tally)
    assert len(sample["reply_ids"]) == 2
    assert tally.replies_dropped["duplicate"] == 1


@pytest.mark.parametrize("size", range(20, 150, 9))
def test_tagged_rows_stay_within_the_limit(make_tokenizer, size):
    encoder = Encoder(make_tokenizer("oasst"))
    limits = Limits("preference", size, "truncate", reply_tags=tags(), min_prefix=4)
    tally = Tally()
    for sample in tokenize(rows(4), encoder, limits, tally):
        assert len(sample["history_ids"]) + max(map(len, sample["reply_ids"])) <= size
        assert len(sample["reply_ids"]) >= 2
    assert tally.rows + tally.dropped.total() == 4
