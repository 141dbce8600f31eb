"""The template ``oasst`` against what Open-Assistant's own code writes.

``golden/make_open_assistant.py`` says how the file was made. Text and ids have to be the same,
byte for byte; where ours differ on purpose, the test says exactly how.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.tiny_tokenizers import for_oasst

from rlhf.core.seeds import row_draws
from rlhf.data.encoding import Encoder, adds_bos
from rlhf.data.labels import IGNORED
from rlhf.data.rows import Conversation, Message, Preference, Properties
from rlhf.data.tags import ReplyTags
from rlhf.data.templates.chat import set_template
from rlhf.data.tokenizing import Limits, Tally, tokenize

GOLDEN = json.loads(
    Path(__file__).with_name("golden").joinpath("open-assistant.json").read_text(encoding="utf-8")
)
SEED = GOLDEN["seed"]
SFT = [row for row in GOLDEN["rows"] if row["kind"] == "sft"]
RM = [row for row in GOLDEN["rows"] if row["kind"] == "rm"]
TOKENIZERS = sorted(GOLDEN["rows"][0]["ids"])


def prepared(name):
    tokenizer = for_oasst(name)
    set_template(tokenizer, "oasst")
    return tokenizer


def message(written):
    role, text, properties = written
    return Message(role, text, Properties(**properties) if properties else None)


def limits(view, row):
    tags = ReplyTags(**row["reply_tags"]) if row["reply_tags"] else None
    prefix = row.get("system_prefix")
    return Limits(view, 4096, "error", system_prefix=prefix, reply_tags=tags, seed=SEED)


def dialogue(row):
    system = [Message("system", row["system"])] if row["system"] else []
    return (*system, *map(message, row["messages"]))


def render(row, messages, draw):
    """The text of a dialogue as our template writes it, with tags."""
    if row["reply_tags"]:
        messages = ReplyTags(**row["reply_tags"]).insert(messages, draw)
    tokenizer = prepared("galactica")  # ends turns with </s> as the file does, and has no BOS
    turns = [{"role": one.role, "content": one.content} for one in messages]
    return tokenizer.apply_chat_template(turns, tokenize=False)


@pytest.mark.parametrize("row", SFT, ids=lambda row: row["id"])
def test_text_of_demonstrations(row):
    draw = row_draws(SEED, "tags", row["id"])
    assert render(row, dialogue(row), draw) == "".join(row["text"])


@pytest.mark.parametrize("row", RM, ids=lambda row: row["id"])
def test_text_of_ranked_replies(row):
    draw = row_draws(SEED, "tags", row["id"])
    history, replies = row["text"]
    assert render(row, map(message, row["history"]), draw) == history
    for reply, text in zip(row["replies"], replies, strict=True):
        assert render(row, [message(reply)], draw) == text


@pytest.mark.parametrize("prompt", GOLDEN["prompts"], ids=lambda prompt: str(len(prompt["pairs"])))
def test_text_of_prompts(prompt):
    turns = [
        {"role": ("user", "assistant")[i % 2], "content": text}
        for i, text in enumerate(prompt["pairs"])
    ]
    text = prepared("galactica").apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True
    )
    assert text == prompt["text"]


@pytest.mark.parametrize("row", SFT, ids=lambda row: row["id"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_and_labels_of_demonstrations(name, row):
    tokenizer = prepared(name)
    encoder, made = Encoder(tokenizer), Conversation(row["id"], "g", dialogue(row))
    (sample,) = tokenize([made], encoder, limits("conversation", row), Tally())
    theirs = row["ids"][name].split()
    ids = [int(one.rstrip("*")) for one in theirs]
    trained = [one.endswith("*") for one in theirs]
    if adds_bos(tokenizer) and row["system_prefix"]:
        # Open-Assistant puts the prefix before BOS. Ours is where a text begins.
        start = ids.index(tokenizer.eos_token_id) + 1
        assert ids[start] == tokenizer.bos_token_id
        ids = [ids[start], *ids[:start], *ids[start + 1 :]]
        trained = [trained[start], *trained[:start], *trained[start + 1 :]]
    assert sample["input_ids"].tolist() == ids
    # Open-Assistant also trains what stands before the first question, if anything does, and
    # what follows a reply. Ours trains replies and their EOS.
    prompter, assistant = tokenizer.convert_tokens_to_ids(["<|prompter|>", "<|assistant|>"])
    expected = list(trained)
    for i, token in enumerate(ids):
        before = i <= ids.index(prompter)
        follows = token == prompter and i > 0 and ids[i - 1] == tokenizer.eos_token_id
        if before or follows:
            expected[i] = False
    assert [label != IGNORED for label in sample["labels"]] == expected
    assert sum(expected) > 0
    assert ids[expected.index(True) - 1] == assistant


@pytest.mark.parametrize("row", RM, ids=lambda row: row["id"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_of_ranked_replies(name, row):
    tokenizer = prepared(name)
    replies = [message(one) for one in row["replies"]]
    made = Preference(
        row["id"],
        "g",
        tuple(map(message, row["history"])),
        tuple(one.content for one in replies),
        tuple(one.properties for one in replies),
    )
    encoder = Encoder(tokenizer)
    (sample,) = tokenize([made], encoder, limits("preference", row), Tally())
    history = sample["history_ids"]
    # Without tags, what begins the assistant's turn is the same for all and in the history.
    length = len(history) - (row["reply_tags"] is None)
    for reply, written in zip(sample["reply_ids"], row["ids"][name], strict=True):
        ids = [int(one) for one in written.split()]
        if adds_bos(tokenizer):  # Open-Assistant puts BOS before the reply too
            assert ids[length] == tokenizer.bos_token_id
            del ids[length]
        assert (history + reply).tolist() == ids
