"""Texts that look as if they held turns or template tokens: named, and read as they stand."""

from __future__ import annotations

import time

import pytest

from rlhf.data.formats.noticing import looks_like
from rlhf.data.formats.source import Source

TEMPLATED = [
    "<|im_start|>user\nhi<|im_end|>",
    "<s>[INST] hi [/INST]",
    "[INST] <<SYS>> be kind",
    "<|user|>\nhi",
    "<|prompter|>hi<|endoftext|>",
    "<start_of_turn>user\nhi<end_of_turn>",
    "<|start_header_id|>user<|end_header_id|>\n\nhi",
    "hi</s>",
    " <s>hi",
    "<extra_id_1>User",
    "<｜User｜>hi",
    "### Instruction:\nhi\n\n### Response:",
]
TRANSCRIPTS = [
    "Human: a\n\nAssistant: b",
    "a Human: b Assistant:",
    "User: a\nAssistant: b",
    "USER: a ASSISTANT: b",
    "### Human: a\n### Assistant: b",
    "### Human: a### Assistant: b",
    "<human>: a\n<bot>: b",
    "yes\nAssistant: b\nUser: c",
]
PLAIN = [
    "if a <b> and <s>c</s> then d",
    "Human rights: a list. An assistant: who?",
    "User: a",
    "user: root\nmodel: x",
    "a[i] = [INSTALL]; x <| y |> z",
    "Ask the user:\nthen the bot:",
    "The AI: a story",
    "## Response times",
]


@pytest.mark.parametrize("text", TEMPLATED)
def test_templates(text):
    assert looks_like(["a", text, "b"]) == {"templated"}


@pytest.mark.parametrize("text", TRANSCRIPTS)
def test_transcripts(text):
    assert looks_like(["a", text, "b"]) == {"transcript"}


@pytest.mark.parametrize("text", PLAIN)
def test_plain_texts(text):
    assert looks_like([text]) == set()


@pytest.mark.parametrize(
    "text", ['[{"role": "user", "content": "a"}]', "[{'from': 'gpt', 'value': 'a'}]"]
)
def test_messages_in_a_notation(text):
    assert looks_like([text]) == {"messages_as_text"}
    assert looks_like([f"Parse this: {text}"]) == set()


def test_heads_in_different_texts_are_no_transcript():
    assert looks_like(["Human: a", "Assistant: b"]) == set()
    assert looks_like([TEMPLATED[0], TRANSCRIPTS[0]]) == {"templated", "transcript"}
    assert looks_like([]) == set()


def test_time_grows_with_the_length_only():
    text = "User: a " * 100_000
    begin = time.perf_counter()
    assert looks_like([text]) == set()
    assert time.perf_counter() - begin < 5


@pytest.mark.parametrize(
    ("name", "record", "options"),
    [
        ("qa", {"question": "{}", "answer": "b"}, {}),
        ("qa", {"question": "a", "answer": "{}"}, {}),
        ("alpaca", {"instruction": "{}", "output": "b"}, {}),
        ("preference", {"prompt": "{}", "chosen": "b", "rejected": "c"}, {}),
        ("preference", {"prompt": "a", "chosen": "b", "rejected": "{}"}, {}),
        ("messages", {"messages": [{"role": "user", "content": "{}"}]}, {}),
        ("dialogue", {"dialogue": ["{}", "b", "c", "d"]}, {}),
        ("scored", {"prompt": "{}", "response": "b", "score": 1}, {}),
        ("labelled", {"prompt": "{}", "completion": "b", "label": True}, {"pairs": True}),
        ("text", {"text": "{}"}, {}),
    ],
)
@pytest.mark.parametrize("text", [TEMPLATED[0], TRANSCRIPTS[2]])
def test_each_row_of_a_file_counts_once(write_lines, name, record, options, text):
    def filled(value, number):
        if isinstance(value, str):
            return value.replace("{}", f"{text} {number}")
        if isinstance(value, dict):
            return {key: filled(one, number) for key, one in value.items()}
        return [filled(one, number) for one in value] if isinstance(value, list) else value

    source = Source(name, write_lines(*(filled(record, i) for i in range(3))), options)
    rows = list(source)
    assert rows
    assert source.faults.noticed == {looks_like([text]).pop(): 3}
