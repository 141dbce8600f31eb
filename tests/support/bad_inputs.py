"""Bad inputs: files that hold no dataset of their format, and what is said about each.

name → (format, options, content, words of the message, reason).

Content is a list of rows, after a good one; or the bytes or the text of the whole file, with its
name. The reason is the key under which `invalid: drop` counts the row; None: an error all the same.
"""

from __future__ import annotations

import gzip
import json
from typing import Any, NamedTuple

from support.oasst_trees import bot, tree, user


class Bad(NamedTuple):
    format: str
    options: dict[str, Any]
    rows: list[Any] | None
    words: list[str]
    reason: str | None
    content: bytes = b""
    file: str = "data.jsonl"


# format → options, a good row; a fault stands in line 2.
GOOD: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "alpaca": ({}, {"instruction": "a", "input": "b", "output": "c"}),
    "choices": ({}, {"ctx": "a", "endings": ["b", "c"], "label": 0}),
    "comparison": (
        {"scores": ["s0", "s1"]},
        {"prompt": "p", "answer_0": "a", "answer_1": "b", "s0": 1, "s1": 0},
    ),
    "dialogue": ({}, {"dialogue": ["a", "b"]}),
    "hh": ({}, {"chosen": "\n\nHuman: a\n\nAssistant: b",
                "rejected": "\n\nHuman: a\n\nAssistant: c"}),
    "labelled": ({}, {"prompt": "p", "completion": "c", "label": True}),
    "messages": ({}, {"messages": [{"role": "user", "content": "a"},
                                   {"role": "assistant", "content": "b"}]}),
    "oasst": ({}, tree(user("good", bot("good-a", 0), bot("good-b", 1)))),
    "preference": ({}, {"prompt": "a", "chosen": "b", "rejected": "c"}),
    "qa": ({}, {"question": "a", "answer": "b"}),
    "ranked": ({}, {"prompt": "a", "replies": ["b", "c"]}),
    "scored": ({}, {"prompt": "p", "response": "r", "score": 1}),
    "sharegpt": ({}, {"conversations": [{"from": "human", "value": "a"},
                                        {"from": "gpt", "value": "b"}]}),
    "summary": ({}, {"text": "a", "summary": "b"}),
    "text": ({}, {"text": "a"}),
    "transcript": ({}, {"text": "Human: a Assistant: b"}),
    "translation": ({"pair": "zh-en"}, {"translation": {"zh": "a", "en": "b"}}),
}  # fmt: skip


def row(
    format: str,
    change: dict[str, Any],
    words: list[str],
    reason: str | None,
    good: dict[str, Any] | None = None,
    **options: Any,
) -> Bad:
    """A good row, and then it with other values in some columns, or without those that are ``...``.

    ``good`` is what else a good row needs under these options.
    """
    defaults, first = GOOD[format]
    first = {**first, **(good or {})}
    second = {key: value for key, value in {**first, **change}.items() if value is not ...}
    return Bad(format, {**defaults, **options}, [first, second], [":2", *words], reason)


def whole(
    format: str, content: bytes | str, words: list[str], file: str = "data.jsonl", **options: Any
) -> Bad:
    """A file that is bad as a whole."""
    data = content if isinstance(content, bytes) else content.encode()
    return Bad(format, {**GOOD[format][0], **options}, None, [file, *words], None, data, file)


def option(format: str, words: list[str], **options: Any) -> Bad:
    """A wrong option."""
    return Bad(format, {**GOOD[format][0], **options}, [], ["datasets.mine.", *words], None)


HUMAN, BOT = "\n\nHuman:", "\n\nAssistant:"
SPOKEN = {"role": "user", "content": "a"}
TALK = [SPOKEN, {"role": "assistant", "content": "b"}]
QA = {"question": "a", "answer": "b"}

BAD: dict[str, Bad] = {
    # --- columns: which is missing, what is there, what holds something else
    "qa: column missing": row(
        "qa", {"answer": ..., "anser": "b"},
        ["no column `answer`", "question, anser", "`options.answer`", "`anser` perhaps"],
        "column_missing"),
    "qa: no column at all": row("qa", {"question": ..., "answer": ...}, ["columns are: none"],
                                "column_missing"),
    "qa: null": row("qa", {"answer": None}, ["Column `answer` is empty", "column answer"],
                    "text_empty"),
    "qa: empty": row("qa", {"question": " \n\t"}, ["Column `question` is empty"], "text_empty"),
    "qa: number": row("qa", {"answer": 5}, ["`answer` holds a int: 5", "expected: text"],
                      "column_type"),
    "qa: NaN": row("qa", {"answer": float("nan")}, ["`answer` is empty"], "text_empty"),
    "qa: NaN in a template": row("qa", {"answer": float("nan")}, ["`answer` is empty"],
                                 "text_empty", answer="{answer}"),
    "qa: system is a number": row("qa", {"system": 5}, ["`system` holds a int: 5"],
                                  "system_invalid"),
    "qa: named system is a number": row("qa", {"tone": 5}, ["`tone` holds a int: 5"],
                                        "column_type", {"tone": "t"}, system="tone"),
    "qa: true": row("qa", {"answer": True}, ["`answer` holds a bool: True"], "column_type"),
    "qa: list": row("qa", {"answer": ["b"]}, ["holds a list: ['b']", "`answer.0`"], "column_type"),
    "qa: object": row("qa", {"answer": {"text": "b"}}, ["holds a dict", "`answer.text`"],
                      "column_type"),
    "qa: long value is cut": row("qa", {"answer": ["x" * 500]}, ["…"], "column_type"),
    "qa: surrogate": row("qa", {"answer": "x\ud800"}, ["surrogate", "column answer"],
                         "text_surrogate"),
    "qa: part missing": row("qa", {"answer": {"value": "b"}}, ["`answer.text`", "no 'text' in it"],
                            "column_missing", {"answer": {"text": "b"}}, answer="answer.text"),
    "qa: list too short": row("qa", {"answer": []}, ["`answer.0` is empty"], "text_empty",
                              {"answer": ["b"]}, answer="answer.0"),
    "qa: template, column missing": row("qa", {"context": ...}, ["`context`", "`options.question`"],
                                        "column_missing", {"context": "c"},
                                        question="{context} {question}"),
    "qa: template, column empty": row("qa", {"title": ""}, ["`title` is empty"], "text_empty",
                                      {"title": "t"}, question="{title}, step by step"),
    "qa: all was removed": row("qa", {"answer": "[1] [2]"}, ["`answer` is empty"], "text_empty",
                               remove=r"\[\d\]"),
    "qa: each, no list": row("qa", {"answer": "b"}, ["`answer` holds a str", "a list"],
                             "column_type", {"answer": ["b"]}, each=["answer"]),
    "qa: each, uneven": row("qa", {"question": ["a", "b"], "answer": ["c"]},
                            ["differ in length", "question 2, answer 1"], "uneven_lists",
                            {"question": ["a"], "answer": ["b"]}, each=["question", "answer"]),
    "qa: each, null inside": row("qa", {"answer": ["b", None]}, ["`answer` is empty"],
                                 "text_empty", {"answer": ["b"]}, each=["answer"]),
    "qa: another format": row("qa", {"question": ..., "answer": ..., "messages": [SPOKEN]},
                              ["its columns are: messages", "another format"], "column_missing"),
    "summary: column missing": row("summary", {"summary": ..., "highlights": "b"},
                                   ["`summary`", "text, highlights"], "column_missing"),
    "summary: empty list": row("summary", {"text": []}, ["`text` is empty"], "text_empty"),
    "alpaca: output null": row("alpaca", {"output": None}, ["`output` is empty"], "text_empty"),
    "alpaca: no instruction": row("alpaca", {"instruction": ..., "prompt": "a"},
                                  ["no column `instruction`"], "column_missing"),
    "alpaca: input is a list": row("alpaca", {"input": ["x"]}, ["`input` holds a list"],
                                   "column_type"),
    "alpaca: history is text": row("alpaca", {"history": "a, b"},
                                   ["`history` holds a str", "[question, answer]"],
                                   "history_invalid"),
    "alpaca: history of lone texts": row("alpaca", {"history": ["ab", "cd"]},
                                         ["holds a str: 'ab'", "`options.history`"],
                                         "history_invalid"),
    "alpaca: history without an answer": row("alpaca", {"history": [["a", None]]},
                                             ["['a', None]"], "history_invalid"),
    "text: null": row("text", {"text": None}, ["`text` is empty"], "text_empty"),
    "text: column missing": row("text", {"text": ..., "TEXT": "a"}, ["`text`", "are: TEXT"],
                                "column_missing"),
    # --- pairs and lists
    "preference: chosen missing": row("preference", {"chosen": ...}, ["`chosen`"],
                                      "column_missing"),
    "preference: rejected null": row("preference", {"rejected": None}, ["`rejected` is empty"],
                                     "text_empty"),
    "preference: rejected is only the speaker": row(
        "preference", {"rejected": " Assistant: "}, ["`rejected` is empty"], "text_empty"),
    "preference: chosen is a number": row("preference", {"chosen": 1.5}, ["holds a float: 1.5"],
                                          "column_type"),
    "preference: chosen ends with the user": row("preference", {"chosen": [SPOKEN]},
                                                 ["`chosen` does not end with a reply"],
                                                 "no_reply"),
    "preference: last message empty": row(
        "preference", {"chosen": [SPOKEN, {"role": "assistant", "content": ""}]},
        ["no text", "message 2"], "text_empty"),
    "preference: prompt null": row("preference", {"prompt": None}, ["`prompt` is empty"],
                                   "text_empty"),
    "preference: prompt empty": row("preference", {"prompt": ""}, ["`prompt` holds a str"],
                                    "prompt_invalid"),
    "preference: prompt is a number": row("preference", {"prompt": 7}, ["holds a int: 7"],
                                          "prompt_invalid"),
    "preference: prompt ends with a reply": row(
        "preference", {"prompt": f"{HUMAN} a{BOT} b"}, ["does not end with what the user says"],
        "role_order"),
    "preference: prompt begins with a reply": row(
        "preference", {"prompt": [{"role": "assistant", "content": "a"}]}, ["out of turn"],
        "role_order"),
    "preference: prompt has an unknown role": row(
        "preference", {"prompt": [{"role": "robot", "content": "a"}]}, ["unknown role 'robot'"],
        "role_unknown"),
    "preference: turn of a prompt is empty": row(
        "preference", {"prompt": f"{HUMAN}{BOT} b{HUMAN} c{BOT}"}, ["A turn is empty", "message 1"],
        "text_empty"),
    "preference: rejected is a list of texts": row(
        "preference", {"rejected": ["b", "c"]}, ["holds a list: ['b', 'c']", "list of messages"],
        "column_type"),
    "preference: system messages differ": row(
        "preference", {"prompt": [{"role": "system", "content": "y"}, SPOKEN],
                       "chosen": [{"role": "system", "content": "x"}, *TALK]},
        ["system messages of one row differ", "'x'", "'y'"], "system_differs",
        {"prompt": [SPOKEN], "rejected": [{"role": "assistant", "content": "c"}]}),
    "preference: two system messages": row(
        "preference", {"system": "x", "prompt": [{"role": "system", "content": "y"}, SPOKEN]},
        ["two system messages", "`options.system`"], "system_conflict"),
    "preference: prompt is another one": row(
        "preference", {"prompt": "b", "chosen": TALK, "rejected": TALK},
        ["'b', is not what", "`options.prompt: null`", "column prompt"], "prompt_differs"),
    "preference: dialogues as text": row(
        "preference", {"chosen": f"{HUMAN} a{BOT} b", "rejected": f"{HUMAN} a{BOT} c"},
        ["whole dialogues as text", "`format: hh`"], "whole_dialogue"),
    "preference: no prompt before the replies": row(
        "preference", {"prompt": ..., "chosen": "It is b", "rejected": "It is c"},
        ["no column `prompt`", "'It is '"], "prompt_missing"),
    "preference: text beside messages": row("preference", {"chosen": TALK},
                                            ["`chosen` holds messages, `rejected` a text"],
                                            "kinds_differ"),
    "hh: messages": row("hh", {"chosen": TALK}, ["holds a list", "`format: preference`"],
                        "column_type"),
    "hh: no speaker": row("hh", {"chosen": "just text"},
                          ["does not begin with a speaker", "just text", "`Human:`"],
                          "no_speaker"),
    "hh: no reply": row("hh", {"chosen": f"{HUMAN} a"}, ["does not end with a reply", "chosen"],
                        "no_reply"),
    "hh: empty reply": row("hh", {"rejected": f"{HUMAN} a{BOT} "}, ["column rejected"],
                           "no_reply"),
    "hh: empty turn": row("hh", {"chosen": f"{HUMAN} {BOT} b"}, ["A turn is empty"], "text_empty"),
    "hh: begins with the assistant": row("hh", {"chosen": f"{BOT} a{HUMAN} b{BOT} c"},
                                         ["out of turn"], "role_order"),
    "hh: null": row("hh", {"rejected": None}, ["`rejected` is empty"], "text_empty"),
    "hh: column missing": row("hh", {"rejected": ...}, ["`rejected`"], "column_missing"),
    "hh: surrogate": row("hh", {"chosen": f"{HUMAN} \udc00{BOT} b"}, ["surrogate"],
                         "text_surrogate"),
    "transcript: no speaker": row("transcript", {"text": "a"}, ["does not begin"], "no_speaker"),
    "transcript: other speakers": row("transcript", {"text": "USER: a ASSISTANT: b"},
                                      ["`Human:` or `Assistant:`"], "no_speaker"),
    "transcript: reply missing": row("transcript", {"label": ...}, ["`label`"], "column_missing",
                                     {"text": "Human: a", "label": "b"}, reply="label"),
    "transcript: assistant first": row("transcript", {"text": "Assistant: a Human: b"},
                                       ["out of turn"], "role_order"),
    "ranked: no list": row("ranked", {"replies": "b"}, ["holds a str: 'b'", "best first"],
                           "column_type"),
    "ranked: empty list": row("ranked", {"replies": []}, ["holds a list: []"], "column_type"),
    "ranked: null reply": row("ranked", {"replies": ["b", None]}, ["no text", "message 2"],
                              "text_empty"),
    "ranked: replies are objects": row("ranked", {"replies": [{"text": "b"}]},
                                       ["A reply is a dict", "`options.text`"], "not_a_reply"),
    "ranked: replies are no objects": row("ranked", {"replies": ["b"]},
                                          ["A reply is a str", "`text`"], "not_a_reply",
                                          {"replies": [{"text": "b"}]}, text="text"),
    "ranked: one dialogue": row("ranked", {"replies": TALK}, ["does not end with a reply"],
                                "no_reply"),
    "ranked: object without its text": row(
        "ranked", {"replies": [{"t": None, "s": 1}]}, ["no text", "message 1"], "text_empty",
        {"replies": [{"t": "b", "s": 1}]}, text="t", score="s"),
    "ranked: rank missing": row("ranked", {"replies": [{"t": "b", "rank": 0}, {"t": "c"}]},
                                ["rank of a reply is nothing (null)", "message 2"], "rank_missing",
                                {"replies": [{"t": "b", "rank": 0}]}, text="t", rank="rank"),
    "ranked: rank is a word": row("ranked", {"replies": [{"t": "b", "rank": "best"}]},
                                  ["'best'"], "rank_missing",
                                  {"replies": [{"t": "b", "rank": "0"}]},
                                  text="t", rank="rank"),
    "ranked: score is NaN": row("ranked", {"replies": [{"t": "b", "s": "nan"}]},
                                ["score of a reply"], "rank_missing",
                                {"replies": [{"t": "b", "s": 1}]}, text="t", score="s"),
    "ranked: history ends with a reply": row("ranked", {"prompt": ["a", "b"]},
                                             ["does not end with what the user says"],
                                             "role_order"),
    "comparison: score null": row("comparison", {"s0": None}, ["`s0` is empty"], "text_empty"),
    "comparison: score is a word": row("comparison", {"s1": "good"}, ["'good'", "a number"],
                                       "score_invalid"),
    "comparison: score missing": row("comparison", {"s1": ...}, ["`s1`"], "column_missing"),
    "comparison: reply empty": row("comparison", {"answer_0": ""}, ["`answer_0` is empty"],
                                   "text_empty"),
    "comparison: choice unknown": row("comparison", {"choice": 2}, ["holds a int: 2", "0 or 1"],
                                      "choice_invalid", {"choice": 0}, scores=None,
                                      choice="choice"),
    "comparison: choice is true": row("comparison", {"choice": True}, ["a bool: True"],
                                      "choice_invalid", {"choice": 1}, scores=None,
                                      choice="choice"),
    "comparison: choice missing": row("comparison", {"winner": ...}, ["`winner`"], "column_missing",
                                      {"winner": 1}, scores=None, choice="winner"),
    "comparison: score is endless": row("comparison", {"s0": "inf"}, ["'inf'", "a number"],
                                        "score_invalid"),
    "labelled: label is a word": row("labelled", {"label": "yes"}, ["'yes'", "or desirable"],
                                     "label_invalid"),
    "labelled: label null": row("labelled", {"label": None}, ["`label` is empty"], "text_empty"),
    "labelled: label missing": row("labelled", {"label": ..., "tag": 1},
                                   ["no column `label`", "`options.label`"], "column_missing"),
    "labelled: completion empty": row("labelled", {"completion": ""}, ["`completion` is empty"],
                                      "text_empty"),
    "scored: score null": row("scored", {"score": None}, ["`score` is empty"], "text_empty"),
    "scored: score is NaN": row("scored", {"score": "NaN"}, ["'NaN'", "a number"],
                                "score_invalid"),
    "scored: score missing": row("scored", {"score": ..., "scores": 1}, ["`options.scores`"],
                                 "column_missing"),
    "choices: label too high": row("choices", {"label": 2}, ["holds a int: 2", "from 0 to 1"],
                                   "label_invalid"),
    "choices: label is a word": row("choices", {"label": "b"}, ["'b'"], "label_invalid"),
    "choices: endings are text": row("choices", {"endings": "b"}, ["a list of texts"],
                                     "column_type"),
    "choices: an ending is null": row("choices", {"endings": ["b", None]}, ["a list of texts"],
                                      "column_type"),
    "choices: right ending empty": row("choices", {"endings": ["", "c"]}, ["no right ending"],
                                       "text_empty"),
    "choices: one ending": row("choices", {"endings": ["b"]}, ["or no wrong one"], "text_empty"),
    "choices: key unknown": row(
        "choices", {"endings": {"text": ["b", "c"], "key": ["A", "B"]}, "label": "C"},
        ["one of `endings.key`"], "label_invalid",
        {"endings": {"text": ["b", "c"], "key": ["A", "B"]}, "label": "B"},
        choices="endings.text", keys="endings.key"),
    "choices: label missing": row("choices", {"label": ...}, ["`label`"], "column_missing"),
    # --- dialogues
    "messages: other columns": row("messages", {"messages": ..., "conversations": []},
                                   ["its columns are: conversations", "column messages"],
                                   "no_messages"),
    "messages: tool": row("messages", {"messages": [{"role": "tool", "content": "x"}]},
                          ["'tool'", "message 1"], "role_unknown"),
    "messages: content is a list": row(
        "messages", {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        ["no text"], "text_empty"),
    "messages: picture": row(
        "messages", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        ["'image_url'", "message 1"], "part_unknown"),
    "messages: content is a number": row(
        "messages", {"messages": [{"role": "user", "content": 5}]},
        ["`content` holds a int: 5", "message 1"], "text_type"),
    "messages: text under another key": row(
        "messages", {"messages": [{"role": "user", "text": "a"}]},
        ["role, text", "`options.content`"], "text_empty"),
    "messages: a tool is called": row(
        "messages", {"messages": [SPOKEN, {"role": "assistant", "content": None, "tool_calls": [
            {"type": "function", "function": {"name": "f", "arguments": "{}"}}]}]},
        ["calls a tool", "message 2", "`options.tool_calls: text`"], "tool_call"),
    "messages: a function is called": row(
        "messages", {"messages": [SPOKEN, {"role": "assistant", "content": "", "function_call": {
            "name": "f", "arguments": "{}"}}]},
        ["calls a tool", "message 2"], "tool_call"),
    "messages: developer": row(
        "messages", {"messages": [{"role": "developer", "content": "a"}]},
        ["'developer'", "`options.roles`", "{developer: system}"], "role_unknown"),
    "messages: observation": row(
        "messages", {"messages": [SPOKEN, {"role": "observation", "content": "a"}]},
        ["'observation'", "{observation: user}"], "role_unknown"),
    "messages: from and value": row(
        "messages", {"messages": [{"from": "human", "value": "a"}]},
        ["`format: sharegpt`", "`options.column: messages`"], "role_missing"),
    "messages: speakers are keys": row(
        "messages", {"messages": [{"human": "a", "gpt": "b"}]},
        ["human, gpt", "`format: dialogue`", "`options.keys`"], "role_missing"),
    "messages: list in another column": row(
        "messages", {"messages": ..., "chat": [SPOKEN]}, ["`options.column: chat`"],
        "no_messages"),
    "messages: list as text": row("messages", {"messages": "[]"}, ["`messages` is a str: '[]'"],
                                  "no_messages"),
    "messages: half a weight": row(
        "messages", {"messages": [SPOKEN, {"role": "assistant", "content": "b", "weight": 0.5}]},
        ["`weight` of a message is a float: 0.5", "message 2", "`options.trained`"],
        "trained_invalid"),
    "messages: weight as text": row(
        "messages", {"messages": [SPOKEN, {"role": "assistant", "content": "b", "train": "no"}]},
        ["`train` of a message is a str: 'no'"], "trained_invalid"),
    "messages: two marks disagree": row(
        "messages", {"messages": [SPOKEN, {"role": "assistant", "content": "b", "weight": 1,
                                           "train": False}]},
        ["by one of its keys", "message 2"], "trained_invalid"),
    "messages: one made of trained and untrained": row(
        "messages", {"messages": [SPOKEN, {"role": "assistant", "content": "b"},
                                  {"role": "assistant", "content": "c", "weight": 0}]},
        ["differ in whether they are trained", "message 3"], "trained_mixed", merge=True),
    "messages: two in a row": row(
        "messages", {"messages": [SPOKEN, SPOKEN]}, ["`options.merge: true`"], "role_repeated"),
    "messages: two system messages": row(
        "messages", {"system": "s", "messages": [{"role": "system", "content": "t"}, SPOKEN]},
        ["two system messages", "`options.system`"], "system_conflict"),
    "messages: two columns with a system message": row(
        "messages", {"system": "s", "system_prompt": "t"},
        ["system and system_prompt", "`options.system`"], "system_conflict"),
    "messages: system is an object": row(
        "messages", {"system": {"os": "linux"}},
        ["`system` holds a dict", "`options.system`"], "system_invalid"),
    "messages: label is a class": row(
        "messages", {"kind": 3}, ["`kind` holds a int: 3", "desirable"], "label_invalid",
        {"kind": 1}, label="kind"),
    "messages: label missing": row(
        "messages", {"kind": ...}, ["`kind` holds nothing", "`options.label`"], "label_invalid",
        {"kind": "desirable"}, label="kind"),
    "messages: id twice": row("messages", {}, ["'x' occurs twice", "`options.ids: ignore`"],
                              "duplicate_id", {"id": "x"}),
    "messages: id is an object": row("messages", {"id": {"$oid": "x"}},
                                     ["`id` holds a dict", "`options.ids: ignore`"], "id_invalid"),
    "messages: id is true": row("messages", {"id": True}, ["`id` holds a bool"], "id_invalid"),
    "messages: null content": row("messages", {"messages": [{"role": "user", "content": None}]},
                                  ["`content`"], "text_empty"),
    "messages: role is null": row("messages", {"messages": [{"role": None, "content": "a"}]},
                                  ["no role"], "role_missing"),
    "messages: two users": row("messages", {"messages": [SPOKEN, SPOKEN]},
                               ["'user' follow each other", "message 2"], "role_repeated"),
    "sharegpt: unknown speaker": row("sharegpt", {"conversations": [{"from": "cat", "value": "a"}]},
                                     ["'cat'", "`from`", "human"], "role_unknown"),
    "sharegpt: value is null": row("sharegpt", {"conversations": [{"from": "gpt", "value": None}]},
                                   ["`value`"], "text_empty"),
    "sharegpt: gpt first": row("sharegpt", {"conversations": [{"from": "gpt", "value": "a"}]},
                               ["out of turn", "speaks first"], "role_order"),
    "sharegpt: empty": row("sharegpt", {"conversations": []}, ["no list of messages"],
                           "no_messages"),
    "dialogue: no list": row("dialogue", {"dialogue": "a"}, ["a list of turns"], "column_type"),
    "dialogue: null turn": row("dialogue", {"dialogue": ["a", None]}, ["no text", "message 2"],
                               "text_empty"),
    "dialogue: turn is an object": row("dialogue", {"dialogue": [{"a": 1}]},
                                       ["no text", "`options.keys`"], "text_empty"),
    "dialogue: turn is a message": row("dialogue", {"dialogue": [SPOKEN]},
                                       ["`format: messages`", "`options.column: dialogue`"],
                                       "text_empty"),
    "dialogue: a number for a text": row(
        "dialogue", {"dialogue": [{"input": 0, "output": "b"}]}, ["no text", "`input`"],
        "text_empty", {"dialogue": [{"input": "a", "output": "b"}]}, keys=["input", "output"]),
    "dialogue: keys are absent": row("dialogue", {"dialogue": [{"User": "a"}]},
                                     ["`input` or `output`"], "text_empty",
                                {"dialogue": [{"input": "a", "output": "b"}]},
                                keys=["input", "output"]),
    "dialogue: assistant first": row("dialogue", {"dialogue": [{"output": "a"}]}, ["out of turn"],
                                     "role_order", {"dialogue": [{"input": "a", "output": "b"}]},
                                     keys=["input", "output"]),
    "dialogue: speakers of another length": row("dialogue", {"who": ["a"]}, ["a list of 2 names"],
                                                "column_type", {"who": ["A", "B"]}, speakers="who"),
    "translation: language missing": row("translation", {"translation": {"zh": "a"}},
                                         ["`translation.en`", "no 'en' in it"], "column_missing"),
    "translation: null": row("translation", {"translation": {"zh": None, "en": "b"}},
                             ["`translation.zh` is empty"], "text_empty"),
    "translation: language unknown": row(
        "translation", {"lang": "xx_1"}, ["names the language 'xx'", "`options.codes`"],
        "language_unknown", {"lang": "en_1"}, target_column="lang"),
    # --- Open-Assistant
    "oasst: nothing of it": row("oasst", {"prompt": ...}, ["no `prompt`"], "not_a_tree"),
    "oasst: prompt is text": row("oasst", {"prompt": "hello"}, ["no `prompt`", "another format"],
                                 "not_a_tree"),
    "oasst: parent missing": row(
        "oasst",
        {"message_id": "m", "parent_id": "gone", "text": "x", "role": "assistant", "prompt": ...},
        ["answers 'gone'", "message m"], "parent_missing"),
    "oasst: flat message without text": row(
        "oasst", {"message_id": "m", "parent_id": None, "role": "prompter", "prompt": ...},
        ["No assistant"], "no_assistant"),
    "oasst: message answers itself": row(
        "oasst",
        {"message_id": "m", "parent_id": "m", "text": "x", "role": "prompter", "prompt": ...},
        ["answers itself", "message m"], "parent_circle"),
    "oasst: parent is a number": row(
        "oasst",
        {"message_id": "m", "parent_id": 5, "text": "x", "role": "assistant", "prompt": ...},
        ["`parent_id` of a message is a int: 5", "message m"], "parent_invalid"),
    "oasst: id of a single message is a number": row(
        "oasst", {"message_id": 5, "parent_id": None, "role": "prompter", "prompt": ...},
        ["no id", "`message_id`"], "id_missing"),
    "oasst: replies of a single message are text": row(
        "oasst", {"message_id": "m", "parent_id": None, "replies": "x", "prompt": ...},
        ["`replies` is no list", "message m"], "replies_invalid"),
    "oasst: half a rank": row(
        "oasst", tree(user("q", bot("a", 0.5), bot("b", 1))), ["The rank 0.5", "message a"],
        "rank_invalid"),
    "oasst: rank is true": row(
        "oasst", tree(user("q", bot("a", True), bot("b", 1))), ["The rank True", "message a"],
        "rank_invalid"),
    "oasst: id that is no text": row("oasst", tree(user("q", bot("a\ud800", 0))), ["surrogate"],
                                     "text_surrogate"),
    "oasst: language that is no text": row(
        "oasst", tree(user("q", bot("a", 0, lang="\ud800"))), ["surrogate"], "text_surrogate"),
    "oasst: neither deleted nor not": row(
        "oasst", tree(user("q", bot("a", 0, deleted="perhaps"))), ["`deleted`", "'perhaps'"],
        "flag_invalid"),
    # --- files
    "json: cut": whole("qa", '{"question": "a", "ans', ["not JSON", ":1:19"]),
    "json: one object over lines": whole("qa", '{\n "data": []\n}', ["`options.field`"],
                                         "data.json"),
    "json: list cut": whole("qa", '[{"question": "a", "answer": "b"},\n {"q', ["not a JSON list",
                            ":2:"], "data.json"),
    "json: list without comma": whole("qa", '[{"question": "a"}\n {}]', ["Expecting ','"],
                                      "data.json", question="question", no_answer="n"),
    "json: more after the list": whole("qa", json.dumps([QA]) + "\n[]", ["More follows", ":1"]),
    "json: list of texts": whole("qa", '["a", "b"]', ["holds a str", "one JSON object"],
                                 "data.json"),
    "json: field is absent": whole("qa", '{"rows": [], "version": 1}',
                                   ["no list under `data`", "rows, version"], "data.json",
                                   field="data"),
    "json: field is no list": whole("qa", '{"data": {}}', ["no list under `data`"], "data.json",
                                    field="data"),
    "json: field in a file of lines": whole("qa", "{}\n{}", ["not one JSON object", ":2:1"],
                                            field="data"),
    "json: empty list": whole("qa", "[]", ["No row is left"], "data.json"),
    "empty": whole("qa", "", ["is empty"]),
    "blank lines": whole("qa", "\n \n", ["is empty"]),
    "not UTF-8": whole("qa", b'{"question": "\xe9"}', ["not UTF-8: byte 0xe9", ":1, byte 15"]),
    "UTF-16 cut": whole("qa", json.dumps(QA).encode("utf-16")[:-1], ["not whole UTF-16"]),
    "gzip cut": whole("qa", gzip.compress(json.dumps(QA).encode() * 99)[:-9],
                      ["gzip file is cut short", "gzip -t"], "data.jsonl.gz"),
    "gzip of nothing": whole("qa", gzip.compress(b""), ["is empty"], "data.jsonl.gz"),
    "zstd cut": whole("qa", bytes.fromhex("28b52ffd0458290100"), ["zstd file", "zstd -t"],
                      "data.jsonl.zst"),
    "csv: no header": whole("qa", "question,question\na,b\n", ["does not name the columns", ":1"],
                            "data.csv"),
    "csv: header with a gap": whole("qa", "question,,answer\na,b,c\n", ["does not name"],
                                    "data.csv"),
    "csv: too few columns": whole("qa", "question,answer\na\n", [":2", "1 columns", "2 columns"],
                                  "data.csv"),
    "csv: comma in a text": whole("qa", "question,answer\na,b,c\n", ["3 columns"], "data.csv"),
    "csv: open quote": whole("qa", 'question,answer\n"a,b\n', ["not CSV", "quote"], "data.csv"),
    "csv: empty": whole("qa", "", ["is empty"], "data.csv"),
    "csv: only a header": whole("qa", "question,answer\n", ["No row is left"], "data.csv"),
    "csv: two delimiters": whole("qa", "question;an|swer\na;b\n", ["between the columns",
                                 "options.delimiter: ';'"], "data.csv"),
    "csv: empty cell": whole("qa", "question,answer\na,\n", [":2", "`answer` is empty"],
                             "data.csv"),
    "parquet: text": whole("qa", "version https://git-lfs.github.com/spec/v1\n",
                           ["not Parquet", "Git LFS"], "data.parquet"),
    "parquet: cut": whole("qa", b"PAR1\x00\x00", ["not Parquet"], "data.parquet"),
    "parquet: empty": whole("qa", b"", ["not Parquet"], "data.parquet"),
    "arrow: text": whole("qa", "hello, this is no arrow", ["not Arrow"], "data.arrow"),
    "txt: empty": whole("text", " \n", ["is empty"], "data.txt"),
    # --- options
    "option: unknown": option("qa", ["options", "'questoin'", "did you mean 'question'"],
                              questoin="q"),
    "option: number for a column": option("qa", ["options.question", "expected: text"],
                                          question=5),
    "option: bad pattern": option("qa", ["options.remove", "a regular expression"], remove="(["),
    "option: each is text": option("qa", ["options.each", "a list"], each="answers"),
    "option: no answer for a template": option("qa", ["options.no_answer"], no_answer="n",
                                               answer="{answer}"),
    "option: max_words": option("summary", ["options.max_words", "1 or more"], max_words=0),
    "option: prompts have no place": option("summary", ["options.prompts", "{}"],
                                            prompts=["Sum up"]),
    "option: one speaker": option("hh", ["options.speakers", "two names"], speakers=["Human"]),
    "option: one reply": option("comparison", ["options.replies", "a list of two"],
                                replies=["a"]),
    "option: neither scores nor choice": option("comparison", ["either `scores` or `choice`"],
                                                scores=None),
    "option: both rank and score": option("ranked", ["not both"], text="t", rank="r", score="s"),
    "option: rank without text": option("ranked", ["options.text"], rank="r"),
    "option: wins": option("comparison", ["options.wins", "labels that differ"], scores=None,
                           choice="c", wins=[1, "1"]),
    "option: a win is a tie": option("comparison", ["options.wins"], scores=None, choice="c",
                                     wins=["A", "tie"]),
    "option: no weights": option("scored", ["options.scores", "columns and their weights"],
                                 scores={}),
    "option: weights": option("scored", ["options.scores", "text or keys and values"], scores=2),
    "option: endless weight": option("scored", ["options.scores"], scores={"a": float("inf")}),
    "option: wrong": option("choices", ["options.wrong", "one or all"], wrong="some"),
    "option: one key": option("dialogue", ["options.keys", "two keys"], keys=["a"]),
    "option: pair": option("translation", ["options.pair", "zh-en"], pair="zh"),
    "option: languages": option("translation", ["options.pair", "`prompts`"], pair="xx-yy"),
    "option: direction": option("translation", ["options.direction", "forward"],
                                direction="up"),
    "option: pieces": option("text", ["options.max_characters"], max_characters=0),
    "option: roles": option("messages", ["options.roles", "keys and values"],
                            roles={"bot": "robot"}),
    "option: roles of another kind": option("messages", ["options.roles", "user, assistant"],
                                            roles={"bot": "text"}),
    "option: ids": option("messages", ["options.ids", "own, or ignore"], ids="none"),
    "option: tool calls": option("sharegpt", ["options.tool_calls", "error, or text"],
                                 tool_calls="json"),
    "option: quality": option("oasst", ["options.min_quality", "0 to 1"], min_quality=3.0),
    "option: review": option("oasst", ["options.review", "approved"], review="yes"),
    "option: synthetic": option("oasst", ["options.synthetic", "true or false"],
                                synthetic="no"),
    "option: languages are text": option("oasst", ["options.lang", "a list"], lang="en"),
    "option: field": option("qa", ["options.field", "text"], field=3),
    "option: exclude": option("qa", ["options.exclude", "a list of texts"], exclude="OpenAI"),
    "option: exclude nothing": option("qa", ["options.exclude"], exclude=[""]),
    "option: invalid": option("qa", ["options.invalid", "drop, error"], invalid="skip"),
    "format: unknown": Bad("share_gpt", {}, [], ["datasets.mine.format", "'sharegpt'"], None),
}  # fmt: skip
