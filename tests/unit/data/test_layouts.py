"""Layouts that people's files have: what they mean is read, or else the right option is named."""

from __future__ import annotations

import json
import os
from typing import Any, ClassVar, NamedTuple

import pytest
from support.read_rows import bot, gpt, human, said, user

from rlhf.data.formats.source import Source
from rlhf.data.rows import Rows
from rlhf.errors import DataError
from rlhf.pages.data_page import advice


@pytest.fixture
def read(tmp_path):
    """Format, content of a file or objects, options → rows and what was counted."""

    def read(format, content, options=None, name="x.jsonl"):
        if not isinstance(content, str):
            content = "".join(json.dumps(one) + "\n" for one in content)
        path = tmp_path / name
        path.write_text(content)
        source = Source(format, path, options)
        rows = Rows()
        for row in source:
            rows.add(row)
        assert all(one.is_even() for one in source.files.values())
        return rows, source.faults

    return read


class Case(NamedTuple):
    """What a format says of a layout, the options that it names, and the rows that they give."""

    format: str
    row: dict[str, Any]
    advice: str
    options: dict[str, Any]
    rows: list[list[tuple[str, str]]]
    other: str | None = None


ANSWERED = [[("u", "q"), ("a", "x")]]
CALL = {"from": "function_call", "value": "{}"}
ADVICE = {
    "alpaca: answer in another column": Case(
        "alpaca", {"instruction": "q", "response": "x"}, "set `options.output` to the right column",
        {"output": "response"}, ANSWERED),
    "alpaca: question in another column": Case(
        "alpaca", {"prompt": "q", "output": "x"}, "set `options.instruction` to the right column",
        {"instruction": "prompt"}, ANSWERED),
    "summary: text in another column": Case(
        "summary", {"document": "q", "summary": "x"}, "set `options.text` to the right column",
        {"text": "document", "prompts": ["{}"]}, ANSWERED),
    "messages: the prompt alone": Case(
        "messages", {"prompt": [user("q")]}, "set `options.column: prompt`", {"column": "prompt"},
        []),
    "messages: inside of an object": Case(
        "messages", {"custom_id": "1", "body": {"model": "m", "messages": [user("q"), bot("x")]}},
        "set `options.column: body.messages`", {"column": "body.messages"}, ANSWERED),
    "messages: tools stand beside them": Case(
        "messages", {"tools": [{"name": "f"}], "turns": [user("q"), bot("x")]},
        "set `options.column: turns`", {"column": "turns"}, ANSWERED),
    "messages: prompt and completion": Case(
        "messages", {"prompt": [user("q")], "completion": [bot("x")]},
        "several lists of messages, prompt, completion: take `format: preference`",
        {"chosen": "completion", "rejected": None}, ANSWERED, "preference"),
    "messages: a worse reply is no dialogue to learn": Case(
        "messages",
        {"input": {"messages": [user("q")]}, "non_preferred_output": [bot("no")],
         "preferred_output": [bot("x")]},
        "several lists of messages, input.messages, non_preferred_output, preferred_output",
        {"prompt": "input.messages", "chosen": "preferred_output",
         "rejected": "non_preferred_output"}, ANSWERED, "preference"),
    "messages: questions and answers": Case(
        "messages", {"messages": [{"input": "q", "output": "x"}]},
        "take `format: dialogue` with `options.turns: messages` and their keys in `options.keys`",
        {"turns": "messages", "keys": ["input", "output"]}, ANSWERED, "dialogue"),
    "qa: lists of messages": Case(
        "qa", {"question": [user("q")], "answer": [bot("x")]},
        "by `format: preference`, with `options.chosen` for the reply and `options.rejected: null`",
        {"prompt": "question", "chosen": "answer", "rejected": None}, ANSWERED, "preference"),
    "qa: a list of objects": Case(
        "qa", {"question": "q", "answer": [{"text": "x", "score": 2}, {"text": "y", "score": 1}]},
        "`answer.0` is the first of its 2 parts, the others are left", {"answer": "answer.0.text"},
        ANSWERED),
    "sharegpt: calls of tools": Case(
        "sharegpt",
        {"conversations": [human("q"), CALL, {"from": "observation", "value": "1"}, gpt("x")]},
        "{function_call: assistant}, and set `options.tool_calls: text`",
        {"roles": {"function_call": "assistant", "observation": "user"}, "tool_calls": "text"},
        [[("u", "q"), ("a", "<tool_call>\n{}\n</tool_call>"),
          ("u", "<tool_response>\n1\n</tool_response>"), ("a", "x")]]),
    "preference: several worse replies": Case(
        "preference", {"prompt": "q", "chosen": "x", "rejected": ["b", "c"]},
        "`rejected.0` is the first of its 2 parts, the others are left",
        {"rejected": "rejected.0"}, ANSWERED),
}  # fmt: skip


@pytest.mark.parametrize("name", ADVICE)
@pytest.mark.parametrize("times", [1, 2])
def test_advice_leads_to_all_of_the_rows(read, name, times):
    """Of a file with one row, and of one with more."""
    case = ADVICE[name]
    with pytest.raises(DataError) as error:
        read(case.format, [case.row] * times)
    assert case.advice in str(error.value.hint)
    rows, faults = read(case.other or case.format, [case.row] * times, case.options)
    assert [said(one) for one in rows.conversations] == case.rows * times
    assert len(rows.prompts) >= times
    assert not faults.dropped + faults.filtered


def test_a_list_in_one_of_several_rows_is_not_taken_for_the_rows(read):
    segments = [{"label": False, "text": "Hi"}, {"label": True, "text": "Yo"}]
    with pytest.raises(DataError) as error:
        read("text", [{"segments": segments}] * 2)
    assert "options.field" not in str(error.value)


def test_a_list_that_is_a_text_stays_one(read):
    row = {"messages": json.dumps([user("q"), bot("x")])}
    with pytest.raises(DataError, match="texts are read as they stand: write the list itself"):
        read("messages", [row])


@pytest.mark.parametrize(
    ("format", "row", "said_of_it"),
    [
        ("preference", {"prompt": "q", "chosen_response": "x", "rejected_response": "y"},
         "the right column, `chosen_response` perhaps"),
        ("qa", {"question_id": "7", "answer": "x", "topic": "q"}, "the right column, or"),
        ("qa", {"question": "q", "answer_len": "1", "said": "x"}, "the right column, or"),
        ("scored", {"prompt": "q", "response": "x", "overall_score": 1},
         "the right column, `overall_score` perhaps"),
    ],
)  # fmt: skip
def test_which_column_may_be_meant(read, format, row, said_of_it):
    """An id is no question, whatever it is called."""
    with pytest.raises(DataError) as error:
        read(format, [row])
    assert said_of_it in str(error.value.hint)


@pytest.mark.parametrize("format", ["messages", "sharegpt", "preference"])
@pytest.mark.parametrize("nothing", ["", None, " ", []])
def test_a_system_message_that_says_nothing_is_none(read, format, nothing):
    system = {"role": "system", "content": nothing}
    turns = [system, user("q"), bot("x")]
    row = {"messages": turns, "conversations": turns, "chosen": turns,
           "rejected": [system, user("q"), bot("y")]}  # fmt: skip
    rows, faults = read(format, [row])
    assert [said(one) for one in rows.conversations] == ANSWERED
    assert not faults.dropped + faults.filtered
    with pytest.raises(DataError):
        read(format, [{key: [system] for key in row}])


@pytest.mark.parametrize(
    ("text", "is_list"),
    [('["q"]', True), (' ["a, \\"b\\"", "c"]\n', True), ('["a"] is a list', False), ("[1]", False),
     ("[]", False), ("see [1]", False)],
)  # fmt: skip
def test_a_list_of_texts_that_is_a_text(read, text, is_list):
    """As a well-known set of battles between models has its turns."""
    _, faults = read("qa", [{"question": text, "answer": "x"}])
    assert faults.noticed == ({"list_as_text": 1} if is_list else {})


def test_a_file_without_rows(read):
    with pytest.raises(DataError, match="No row is left of the dataset: it had none"):
        read("qa", "question,answer\n", name="x.csv")


class TestColumnsThatAreNotRead:
    @pytest.mark.parametrize(
        ("format", "row", "column", "said_of_it", "options", "answers"),
        [
            ("alpaca", {"instruction": "q", "context": "c", "output": "x"}, "context",
             "`options.input: context` reads it", {"input": "context"}, ["q\nc|x"]),
            ("qa", {"question": "q", "context": "c", "answer": "x"}, "context",
             '`options.question: "… {context}"`', {"question": "{question}\n{context}"},
             ["q\nc|x"]),
            ("preference", {"prompt": "q", "input": "c", "chosen": "x", "rejected": "y"}, "input",
             '`options.prompt: "… {input}"`', {"prompt": "{prompt}\n{input}"}, ["q\nc|x"]),
            ("qa", {"question": "q", "answer": "x", "is_correct": 0}, "is_correct",
             "`options.label: is_correct` reads it as good or bad", {"label": "is_correct"}, []),
            ("ranked", {"prompt": "q", "replies": [{"a": "y", "rank": 2}, {"a": "x", "rank": 1}]},
             "replies[].rank", "`options.rank: rank` reads it", {"text": "a", "rank": "rank"},
             ["q|x"]),
            ("ranked", {"prompt": "q", "replies": [bot("y") | {"overall_score": 1},
                                                   bot("x") | {"overall_score": 2}]},
             "replies[].overall_score", "`options.score: overall_score` reads it",
             {"text": "content", "score": "overall_score"}, ["q|x"]),
        ],
    )  # fmt: skip
    def test_advice(self, read, format, row, column, said_of_it, options, answers):
        before = {"text": "a"} if "a" in str(row.get("replies", ""))[2:4] else {}
        _, faults = read(format, [row], before)
        assert faults.unread[column] == 1
        assert said_of_it in advice(format, column)
        rows, faults = read(format, [row], options)
        assert ["|".join(one.content for one in row.messages) for row in rows.conversations] == (
            answers
        )
        assert not faults.unread.keys() & {column}

    @pytest.mark.parametrize("column", ["chosen", "rejected", "completion", "preferred_output"])
    @pytest.mark.parametrize("format", ["messages", "sharegpt", "qa", "alpaca"])
    def test_replies_that_another_format_reads(self, format, column):
        assert "`format: preference` does" in advice(format, column)

    @pytest.mark.parametrize(
        "column", ["videos", "toxic", "score_chosen", "instruct_reward", "reasoning", "ratings",
                   "messages[].reasoning", "messages[].train_detail", "conversation[].redacted"]
    )  # fmt: skip
    def test_what_no_option_reads(self, column):
        assert advice("messages", column).endswith("no option of `messages` reads it")

    @pytest.mark.parametrize("column", ["prompt_id", "source", "uuid", "messages[].tool_call_id"])
    def test_what_says_little(self, column):
        assert advice("messages", column) == ""

    def test_the_score_of_a_reply_is_not_the_reply(self):
        assert advice("preference", "chosen_response") == (
            "`options.chosen: chosen_response` reads it"
        )
        for column in ("score_chosen", "chosen_score", "rejected_rating"):
            said_of_it = advice("preference", column)
            assert "options.chosen" not in said_of_it
            assert "options.rejected" not in said_of_it
        assert advice("preference", "score_chosen") == "`options.scores` reads it, with others"

    def test_another_label_than_that_of_the_right_choice(self):
        assert "options" not in advice("choices", "activity_label")

    def test_calls_of_messages_that_say_something_too(self):
        said_of_it = advice("messages", "messages[].tool_calls")
        assert said_of_it == "`options.tool_calls: text` reads it"

    def test_a_question_is_not_asked_with_what_is_no_part_of_it(self):
        for column in ("label", "weight", "reasoning", "score"):
            assert "options.question" not in advice("qa", column)


class TestWhatTurnsHold:
    @pytest.mark.parametrize("no", ["0", "false", " False", "0.0", False, 0])
    @pytest.mark.parametrize("key", ["weight", "train", "training"])
    def test_that_they_are_context_only_as_text_too(self, read, key, no):
        turns = [user("a"), bot("b") | {key: no}, user("c") | {key: no}, bot("d") | {key: "1"}]
        rows, faults = read("messages", [{"messages": turns}])
        assert [one.trained for one in rows.conversations[0].messages] == [True, False, True, True]
        assert not faults.unread

    @pytest.mark.parametrize("options", [{}, {"system": "system"}])
    def test_a_system_message_in_parts(self, read, options):
        parts = [{"type": "text", "text": "Be ", "cache_control": {"type": "x"}}, {"text": "kind."}]
        row = {"system": parts, "messages": [user("q"), bot("x")]}
        rows, faults = read("messages", [row], options)
        assert said(rows.conversations[0]) == [("s", "Be kind."), *ANSWERED[0]]
        assert faults.unread == {"system[].cache_control": 1}

    def test_a_system_message_with_a_part_that_is_no_text(self, read):
        row = {"system": [{"type": "image"}], "messages": [user("q"), bot("x")]}
        with pytest.raises(DataError, match="`system` holds a part of the type 'image'"):
            read("messages", [row])


def test_ratings_inside_of_replies(read):
    """As the first UltraFeedback has them."""
    replies = [
        {"response": text, "annotations": {"helpfulness": {"Rating": rating, "Rationale": "So."}}}
        for text, rating in (("x", "3"), ("y", "5"))
    ]
    options = {"prompt": "instruction", "replies": "completions", "text": "response"}
    options |= {"score": "annotations.helpfulness.Rating"}
    rows, faults = read("ranked", [{"instruction": "q", "completions": replies}], options)
    assert rows.preferences[0].replies == ("y", "x")
    assert not faults.unread
    with pytest.raises(DataError, match="its keys are: response, annotations"):
        read("ranked", [{"instruction": "q", "completions": replies}], options | {"score": "no"})


def test_prompts_without_answers(read):
    rows, faults = read("qa", [{"prompt": "q"}, {"prompt": "r"}], {"question": "prompt",
                                                                   "answer": None})  # fmt: skip
    assert not rows.conversations
    assert [said(one) for one in rows.prompts] == [[("u", "q")], [("u", "r")]]
    assert not faults.filtered


def test_a_list_of_answers_that_is_empty(read):
    """As SQuAD has them where a question has no answer."""
    row = {"question": "q", "answers": {"text": [], "answer_start": []}}
    full = {"question": "q", "answers": {"text": ["x"], "answer_start": [1]}}
    rows, faults = read("qa", [row, full], {"answer": "answers.text.0", "invalid": "drop"})
    assert [said(one) for one in rows.conversations] == ANSWERED
    assert faults.dropped == {"text_empty": 1}
    rows, faults = read("qa", [row], {"answer": "answers.text.0", "no_answer": "None."})
    assert said(rows.conversations[0]) == [("u", "q"), ("a", "None.")]


class TestNamesThatCannotBeWritten:
    """Half of a surrogate pair is no text: reports and errors print what stands for it."""

    def test_keys_of_replies(self, read):
        rows = [
            {"chosen": [user("q"), bot("x") | {"\ud83d": 1}], "rejected": [user("q"), bot("y")]}
        ]
        _, faults = read("preference", rows)
        assert faults.unread == {"chosen[].\\ud83d": 1}
        replies = [{"t": "x", "\ud83d": 1}, {"t": "y"}]
        _, faults = read("ranked", [{"prompt": "q", "replies": replies}], {"text": "t"})
        assert faults.unread == {"replies[].\\ud83d": 1}

    @pytest.mark.parametrize(
        ("format", "row"),
        [("messages", {"messages": [{"role": "\ud83d", "content": "q"}]}), ("qa", {"\ud83d": "q"})],
    )
    def test_errors(self, read, format, row):
        with pytest.raises(DataError) as error:
            read(format, [row])
        assert "\\ud83d" in str(error.value)
        str(error.value).encode()


class TestDialoguesOfTwoSpeakers:
    """What stands beside them is read as it is beside lists of messages."""

    ROWS: ClassVar = {
        "transcript": {"text": "Human: q\n\nAssistant: x"},
        "dialogue": {"dialogue": ["q", "x"]},
        "hh": {
            "chosen": "\n\nHuman: q\n\nAssistant: x",
            "rejected": "\n\nHuman: q\n\nAssistant: y",
        },
    }

    @pytest.mark.parametrize("format", ROWS)
    @pytest.mark.parametrize("column", ["system", "system_prompt"])
    def test_a_system_message(self, read, format, column):
        rows, faults = read(format, [self.ROWS[format] | {column: "S"}, self.ROWS[format]])
        assert [said(one) for one in rows.conversations] == [[("s", "S"), *ANSWERED[0]], *ANSWERED]
        assert [said(one)[0] for one in rows.preferences] == [("s", "S"), ("u", "q")][
            : 2 * (format == "hh")
        ]
        assert not faults.unread
        rows, faults = read(format, [self.ROWS[format] | {column: "S"}], {"system": ""})
        assert [said(one) for one in rows.conversations] == ANSWERED
        assert faults.unread == {column: 1}

    @pytest.mark.parametrize("format", ["transcript", "dialogue"])
    def test_a_label(self, read, format):
        row = self.ROWS[format]
        rows, faults = read(format, [row | {"label": False}, row | {"label": True}, row])
        assert [said(one) for one in rows.conversations] == ANSWERED * 2
        assert len(rows.prompts) == 3
        assert faults.filtered == {"rejected_reply": 1}
        rows, faults = read(format, [row | {"fine": "bad"}], {"label": "fine"})
        assert not rows.conversations


class TestRepliesInOtherForms:
    @pytest.mark.parametrize("replies", [[["x"], ["y"]], [1, 2], ["x", ["y", "z"]]])
    def test_no_part_of_a_list_of_replies_is_suggested(self, read, replies):
        """`replies.0` would be one reply, and the others gone."""
        with pytest.raises(DataError) as error:
            read("ranked", [{"prompt": "q", "replies": replies}])
        assert "replies.0" not in str(error.value)
        assert "{replies}" not in str(error.value)

    def test_numbers_as_the_advice_says(self, read):
        row = {"prompt": "q", "chosen": 5, "rejected": 7}
        with pytest.raises(DataError, match="which makes a text of a number"):
            read("preference", [row])
        options = {"chosen": "{chosen}", "rejected": "{rejected}"}
        rows, faults = read("preference", [row], options)
        assert rows.preferences[0].replies == ("5", "7")
        assert not faults.unread


class TestTablesOfSpreadsheets:
    def test_columns_and_rows_that_are_empty(self, read):
        text = "question;answer;;\r\nq;x;;\r\n;;;\r\nr; ;;\r\ns;y;; \r\n;;;\r\n"
        rows, faults = read("qa", text, {"invalid": "drop"}, "x.csv")
        assert [said(one) for one in rows.conversations] == [
            *ANSWERED, [("u", "s"), ("a", "y")]]  # fmt: skip
        assert faults.noticed == {"empty_row": 2}
        assert faults.dropped == {"text_empty": 1}

    @pytest.mark.parametrize("name", ["x.csv", "x.tsv"])
    def test_a_column_without_a_name_that_holds_something(self, read, name):
        text = "question,answer,\nq,x,\nr,y,z\n".replace(",", "\t" if name == "x.tsv" else ",")
        with pytest.raises(DataError, match="in a column without a name") as error:
            read("qa", text, name=name)
        assert f"{name}:3" in str(error.value)
        _, faults = read("qa", text, {"invalid": "drop"}, name)
        assert faults.dropped == {"csv_columns": 1}

    @pytest.mark.parametrize("row", ["q,x", "q,x,", "q,x,,,"])
    def test_rows_of_another_width_are_faults(self, read, row):
        with pytest.raises(DataError, match=f"The row has {row.count(',') + 1} columns"):
            read("qa", f"question,answer,,\nq,x,,\n{row}\n", name="x.csv")

    def test_ranks_that_pandas_wrote(self, read):
        text = (
            "message_id,parent_id,text,role,rank,deleted,tree_state\n"
            "1,,q,prompter,,False,ready_for_export\n"
            "2,1,y,assistant,1.0,False,ready_for_export\n"
            "3,1,x,assistant,0.0,,ready_for_export\n"
        )
        rows, _ = read("oasst", text, name="x.csv")
        assert rows.preferences[0].replies == ("x", "y")


def test_a_file_whose_name_is_no_text(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    for name in (b"a\xff.jsonl", b"b.jsonl", b"c\xff.bin"):
        (folder / os.fsdecode(name)).write_text('{"question": "q", "answer": "x"}\n')
    source = Source("qa", folder)
    rows = list(source)
    assert {row.id for row in rows} == {
        "a\\udcff.jsonl:1", "a\\udcff.jsonl:1/1", "b.jsonl:1", "b.jsonl:1/1"}  # fmt: skip
    assert set(source.files) == {"a\\udcff.jsonl", "b.jsonl"}
    assert set(source.not_read) == {"c\\udcff.bin"}
