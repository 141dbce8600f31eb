"""Chats as their makers write them: parts, tools, turns that are context only, columns beside."""

from __future__ import annotations

import json

import pytest

from rlhf.data.formats.source import Source
from rlhf.data.rows import Conversation, Prompt, Rows
from rlhf.errors import DataError

HI = {"role": "user", "content": "Hi"}
YO = {"role": "assistant", "content": "Yo"}


@pytest.fixture
def read(write_lines):
    """Format, records and options → rows and faults."""

    def read(format, *records, **options):
        source = Source(format, write_lines(*records), options)
        rows = Rows()
        for row in source:
            rows.add(row)
        return rows, source.faults

    return read


def said(row):
    messages = row.messages if isinstance(row, Conversation) else row.history
    return [(one.role, one.content) for one in messages]


def chat(*turns, **beside):
    return {"messages": [{"role": role, "content": text} for role, text in turns], **beside}


class TestSystemColumn:
    @pytest.mark.parametrize("column", ["system", "system_prompt"])
    def test_is_read_where_it_is_there(self, read, column):
        shared = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]
        for format, row in (
            ("messages", {"messages": [HI, YO]}),
            ("sharegpt", {"conversations": shared}),
            ("alpaca", {"instruction": "Hi", "output": "Yo"}),
            ("qa", {"question": "Hi", "answer": "Yo"}),
            ("dialogue", {"dialogue": ["Hi", "Yo"]}),
        ):
            records = [{**row, column: one} for one in ("Be kind.", None, " ", float("nan"))]
            rows, faults = read(format, *records, row)
            assert said(rows.conversations[0])[0] == ("system", "Be kind.")
            assert said(rows.prompts[0])[0] == ("system", "Be kind.")
            assert [len(one.messages) for one in rows.conversations] == [3, 2, 2, 2, 2]
            assert not faults.unread

    def test_another_one_or_none(self, read):
        record = {"messages": [HI, YO], "system": "S", "persona": "P"}
        rows, _ = read("messages", record, system="persona")
        assert said(rows.conversations[0])[0] == ("system", "P")
        rows, _ = read("messages", record, system="")
        assert said(rows.conversations[0])[0] == ("user", "Hi")

    def test_the_same_in_the_list_is_there_once(self, read):
        rows, _ = read("messages", chat(("system", "S"), ("user", "Hi"), system="S "))
        assert said(rows.prompts[0]) == [("system", "S"), ("user", "Hi")]

    def test_a_column_that_is_the_question_is_no_system_message(self, read):
        rows, _ = read("qa", {"system": "What is this?", "answer": "b"}, question="system")
        assert said(rows.conversations[0]) == [("user", "What is this?"), ("assistant", "b")]


class TestTrained:
    @pytest.mark.parametrize("key", ["weight", "train", "trainable", "loss"])
    @pytest.mark.parametrize(("no", "yes"), [(0, 1), (0.0, 1.0), (False, True), (0, None)])
    def test_turns_that_are_context_only(self, read, key, no, yes):
        turns = [HI, {**YO, key: no}, HI, {**YO, key: yes}, HI, YO]
        rows, faults = read("messages", {"messages": turns})
        trained = [one.trained for one in rows.conversations[0].messages]
        assert trained == [True, False, True, True, True, True]
        assert len(rows.prompts) == 3
        assert not faults.filtered
        assert not faults.unread

    def test_nothing_to_learn_is_no_demonstration(self, read):
        rows, faults = read("messages", {"messages": [HI, {**YO, "weight": 0}]})
        assert not rows.conversations
        assert [said(one) for one in rows.prompts] == [[("user", "Hi")]]
        assert faults.filtered == {"untrained": 1}

    def test_another_key_or_none(self, read):
        turns = {"messages": [HI, {**YO, "learn": False, "loss": 0.25}, HI, YO]}
        rows, faults = read("messages", turns, trained="learn")
        assert [one.trained for one in rows.conversations[0].messages][1] is False
        assert faults.unread == {"messages[].loss": 1}
        rows, faults = read("messages", turns, trained="")
        assert all(one.trained for one in rows.conversations[0].messages)
        assert faults.unread == {"messages[].loss": 1, "messages[].learn": 1}

    def test_sharegpt_joins_turns_that_are_context_only(self, read):
        turns = [("human", "a", 1), ("gpt", "b", 0), ("gpt", "c", 0), ("human", "d", 0)]
        turns.append(("gpt", "e", 1))
        listed = [{"from": who, "value": text, "weight": w} for who, text, w in turns]
        rows, faults = read("sharegpt", {"conversations": listed})
        found = [(one.content, one.trained) for one in rows.conversations[0].messages]
        assert found == [("a", True), ("b\nc", False), ("d", True), ("e", True)]
        assert faults.unread == {"conversations[].weight": 1}  # the user's is never trained


class TestContent:
    def test_parts_are_put_together_as_they_are(self, read):
        parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}, "\nc"]
        reply = [{"type": "output_text", "text": "d", "image": None}]
        turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": reply}]
        rows, faults = read("messages", {"messages": turns})
        assert said(rows.conversations[0]) == [("user", "a b\nc"), ("assistant", "d")]
        assert not faults.unread

    def test_what_nobody_reads_is_named_once_a_row(self, read):
        reply = {**YO, "reasoning_content": "Hm.", "tool_calls": [], "name": "", "extra": None}
        part = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}
        turns = [{"role": "user", "content": [part], "name": "Kim"}, reply, HI, reply]
        _, faults = read("messages", {"messages": turns}, {"messages": [HI, reply]})
        assert faults.unread == {
            "messages[].reasoning_content": 2,
            "messages[].name": 1,
            "messages[].content[].cache_control": 1,
        }

    def test_keys_that_are_no_text_are_named_in_a_form_that_can_be_printed(self, read):
        _, faults = read("messages", {"messages": [HI, {**YO, "x\ud800": 1}]})
        assert faults.unread == {"messages[].x\\ud800": 1}
        turns = [{"in": "a", "out": "b", "x\ud800": 1}]
        _, faults = read("dialogue", {"dialogue": turns}, keys=["in", "out"])
        assert faults.unread == {"dialogue[].x\\ud800": 1}

    @pytest.mark.parametrize(
        ("role", "content"), [("from", "value"), ("role", "content"), ("role", "value"),
                              ("role", "text")]
    )  # fmt: skip
    def test_sharegpt_under_other_keys(self, read, role, content):
        turns = [{role: "user", content: "a"}, {role: "assistant", content: "b"}]
        rows, faults = read("sharegpt", {"conversations": turns})
        assert said(rows.conversations[0]) == [("user", "a"), ("assistant", "b")]
        assert not faults.unread


class TestRoles:
    def test_more_roles_beside_the_known_ones(self, read):
        turns = [("developer", "s"), ("user", "a"), ("assistant", "b")]
        rows, _ = read("messages", chat(*turns), roles={"developer": "system"})
        assert said(rows.conversations[0]) == [("system", "s"), *turns[1:]]

    def test_more_roles_in_sharegpt(self, read):
        turns = [{"from": "human", "value": "a"}, {"from": "model", "value": "b"}]
        rows, _ = read("sharegpt", {"conversations": turns}, roles={"model": "assistant"})
        assert said(rows.conversations[0]) == [("user", "a"), ("assistant", "b")]


class TestTools:
    CALL = '<tool_call>\n{"name": "rain", "arguments": {"in": "Köln"}}\n</tool_call>'

    def test_calls_and_what_comes_back_as_text(self, read):
        arguments = json.dumps({"in": "Köln"})
        call = {"id": "1", "type": "function", "function": {"name": "rain", "arguments": arguments}}
        turns = [
            HI,
            {"role": "assistant", "content": None, "tool_calls": [call, call]},
            {"role": "tool", "content": "wet"},
            {"role": "tool", "content": "dry"},
            {"role": "assistant", "content": "Both."},
            HI,
            {"role": "assistant", "content": "Look:", "function_call": call["function"]},
        ]
        record = {"messages": turns}
        rows, faults = read("messages", record, tool_calls="text", roles={"tool": "user"})
        back = "\n".join(f"<tool_response>\n{one}\n</tool_response>" for one in ("wet", "dry"))
        assert said(rows.conversations[0]) == [
            ("user", "Hi"),
            ("assistant", f"{self.CALL}\n{self.CALL}"),
            ("user", back),
            ("assistant", "Both."),
            ("user", "Hi"),
            ("assistant", f"Look:\n{self.CALL}"),
        ]
        assert not faults.unread

    def test_roles_that_call_in_sharegpt(self, read):
        call = '{"name": "rain", "arguments": {"in": "Köln"}}'
        turns = [("human", "Rain?"), ("function_call", call), ("observation", "wet"),
                 ("gpt", "Yes.")]  # fmt: skip
        record = {"conversations": [{"from": who, "value": text} for who, text in turns]}
        roles = {"function_call": "assistant", "observation": "user"}
        rows, _ = read("sharegpt", record, tool_calls="text", roles=roles)
        assert said(rows.conversations[0]) == [
            ("user", "Rain?"),
            ("assistant", self.CALL),
            ("user", "<tool_response>\nwet\n</tool_response>"),
            ("assistant", "Yes."),
        ]

    def test_what_is_in_tags_already_stays(self, read):
        back = "<tool_response>\nwet\n</tool_response>"
        turns = [("human", "Rain?"), ("gpt", self.CALL), ("tool", back), ("gpt", "Yes.")]
        record = {"conversations": [{"from": who, "value": text} for who, text in turns]}
        rows, _ = read("sharegpt", record, tool_calls="text", roles={"tool": "user"})
        assert [text for _, text in said(rows.conversations[0])] == [
            "Rain?", self.CALL, back, "Yes."]  # fmt: skip

    def test_a_call_beside_a_text_is_named(self, read):
        reply = {**YO, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
        rows, faults = read("messages", {"messages": [HI, reply]})
        assert said(rows.conversations[0])[-1] == ("assistant", "Yo")
        assert faults.unread == {"messages[].tool_calls": 1}


class TestLabels:
    @pytest.mark.parametrize("column", ["label", "kto_tag", "tag", "is_good", "desirable"])
    def test_rejected_answers_are_no_demonstrations(self, read, column):
        for format, row in (
            ("messages", {"messages": [HI, YO]}),
            ("sharegpt", {"conversations": [HI, YO]}),
            ("alpaca", {"instruction": "Hi", "output": "Yo"}),
            ("qa", {"question": "Hi", "answer": "Yo"}),
        ):
            marks = [True, False, "True", "false", None]
            rows, faults = read(format, *({**row, column: one} for one in marks), row)
            assert [one.id for one in rows.conversations] == ["1", "3", "5", "6"], format
            assert len(rows.prompts) == 6
            judged = [(one.id, one.reply, one.desirable) for one in rows.feedbacks]
            assert judged == [(f"{i}", "Yo", i % 2 == 1) for i in range(1, 5)], format
            assert rows.feedbacks[0].history == rows.conversations[0].messages[:-1]
            assert faults.filtered == {"rejected_reply": 2}
            assert not faults.unread

    @pytest.mark.parametrize(
        ("good", "bad"), [(1, 0), ("1", "0"), (1.0, 0.0), ("desirable", "Undesirable"),
                          ("chosen", "rejected"), (True, "False")]
    )  # fmt: skip
    def test_a_column_that_an_option_names(self, read, good, bad):
        row = {"question": "Hi", "answer": "Yo", "tag": False}
        rows, faults = read("qa", {**row, "ok": good}, {**row, "ok": bad}, label="ok")
        assert [one.id for one in rows.conversations] == ["1"]
        assert faults.filtered == {"rejected_reply": 1}

    def test_classes_are_no_labels_and_an_empty_name_reads_none(self, read):
        row = {"instruction": "Hi", "output": "Yo"}
        rows, faults = read("alpaca", {**row, "label": 0}, {**row, "label": "spam"})
        assert len(rows.conversations) == 2
        assert not rows.feedbacks
        assert faults.unread == {"label": 2}
        rows, _ = read("alpaca", {**row, "label": False}, label="")
        assert len(rows.conversations) == 1

    def test_the_answer_itself_is_no_label(self, read):
        rows, faults = read("qa", {"prompt": "Is it?", "label": "false"}, question="prompt",
                            answer="label")  # fmt: skip
        assert said(rows.conversations[0])[-1] == ("assistant", "false")
        assert not faults.filtered


class TestIds:
    @pytest.fixture
    def ids(self, read):
        def ids(*found, **options):
            records = [{"messages": [HI, YO], **({} if one is ... else {"id": one})}
                       for one in found]  # fmt: skip
            rows, _ = read("messages", *records, **options)
            return [one.id for one in rows.conversations], [one.id for one in rows.prompts]

        return ids

    def test_null_and_absent_are_none(self, ids):
        assert ids(None, ..., "", float("nan"))[0] == ["1", "2", "3", "4"]

    def test_numbers(self, ids):
        assert ids(7, 8.0, 8.5, -1)[0] == ["7", "8", "8.5", "-1"]

    def test_an_id_that_is_the_number_of_another_row(self, ids):
        assert ids("3", ..., ...)[0] == ["3", "2", "3@3"]
        assert ids(..., "1", 5, "4@4", "4@4@4")[0] == ["1", "1@2", "5", "4@4", "4@4@4"]

    def test_an_id_that_is_another_rows_prompt(self, ids):
        for first in (["a", "a/1"], ["a/1", "a"], ["a/1", "a/1/1", "a"]):
            rows, prompts = ids(*first)
            assert len({*rows, *prompts}) == 2 * len(first)
            assert prompts == [f"{one}/1" for one in rows]
        assert ids("a", "a/2", "a/01", "a/x")[0] == ["a", "a/2", "a/01", "a/x"]

    def test_ignored(self, ids):
        assert ids("x", "x", {"any": 1}, ids="ignore")[0] == ["1", "2", "3"]

    def test_several_files_may_number_their_rows_alike(self, tmp_path):
        for name in ("a.jsonl", "b.jsonl"):
            lines = [json.dumps({"id": i, "messages": [HI, YO]}) for i in range(2)]
            (tmp_path / name).write_text("\n".join(lines))
        rows = [one for one in Source("messages", tmp_path) if not isinstance(one, Prompt)]
        assert [one.id for one in rows] == ["a.jsonl:0", "a.jsonl:1", "b.jsonl:0", "b.jsonl:1"]


ASKED, SAID = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}
CALL = {"function": {"name": "f", "arguments": "{}"}}
# What messages say about rows of other layouts → the same rows as it advises to read them.
ADVICE = {
    "from and value": (
        {"messages": [ASKED, SAID]},
        "take `format: sharegpt` with `options.column: messages`",
        ("sharegpt", {"column": "messages"}),
    ),
    "speakers as keys": (
        {"messages": [{"human": "Hi", "gpt": "Yo"}]},
        "`format: dialogue` with `options.turns: messages` and `options.keys`",
        ("dialogue", {"turns": "messages", "keys": ["human", "gpt"]}),
    ),
    "another column": (
        {"id": "x", "chat": [HI, YO]},
        "`options.column: chat`",
        ("messages", {"column": "chat"}),
    ),
    "another key of the text": (
        {"messages": [{"role": one["role"], "text": one["content"]} for one in (HI, YO)]},
        "name that of the text in `options.content`",
        ("messages", {"content": "text"}),
    ),
    "another key of the role": (
        {"messages": [{"who": one["role"], "content": one["content"]} for one in (HI, YO)]},
        "name that of the role in `options.role`",
        ("messages", {"role": "who"}),
    ),
    "role of a maker": (
        chat(("user", "Hi"), ("model", "Yo")),
        "{model: assistant}",
        ("messages", {"roles": {"model": "assistant"}}),
    ),
    "two in a row": (
        chat(("user", "Hi"), ("assistant", "Yo"), ("assistant", "Yo")),
        "`options.merge: true`",
        ("messages", {"merge": True}),
    ),
    "tools": (
        {"messages": [HI, {"role": "assistant", "tool_calls": [CALL]},
                      {"role": "tool", "content": "x"}, YO]},
        "set `options.tool_calls: text`",
        ("messages", {"tool_calls": "text", "roles": {"tool": "user"}}),
    ),
    "system messages that differ": (
        {"messages": [{"role": "system", "content": "S"}, HI, YO], "system": "T"},
        "with an empty name only the list's is read",
        ("messages", {"system": ""}),
    ),
    "a weight that is none": (
        {"messages": [HI, {**YO, "loss": 0.25}]},
        "with an empty name all of the assistant's turns are learned",
        ("messages", {"trained": ""}),
    ),
    "an id that is none": (
        {"id": {"$oid": "1"}, "messages": [HI, YO]},
        "`options.ids: ignore`",
        ("messages", {"ids": "ignore"}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ADVICE)
def test_advice_leads_to_rows(read, name):
    record, advice, (format, options) = ADVICE[name]
    with pytest.raises(DataError) as error:
        read("messages", record)
    assert advice in str(error.value.hint)
    rows, faults = read(format, record, **options)
    assert said(rows.conversations[0])[-1][1].startswith("Yo")
    assert not faults.dropped + faults.filtered
