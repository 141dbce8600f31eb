"""Pairs: of texts, of messages, and of whole dialogues with their prompt beside them or inside."""

from __future__ import annotations

import pytest
from support.read_rows import bot, counted, gpt, human, said, system, user

from rlhf.errors import DataError

HTML = "<p>One &amp; two</p>\n\n<pre>Human: x</pre>\n"


class TestPairs:
    @pytest.mark.parametrize(
        ("prompt", "turns"),
        [
            ("plain\n\ntext", [("u", "plain\n\ntext")]),
            ("\n\nHuman: a\n\nb\n\nAssistant:", [("u", "a\n\nb")]),
            (" Human: a Assistant:", [("u", "a")]),
            ("Human: Sum up: Human: b Assistant: c\n\nAssistant:",
             [("u", "Sum up: Human: b Assistant: c")]),
            ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c", [("u", "a"), ("a", "b"), ("u", "c")]),
            (["a", "b", "c"], [("u", "a"), ("a", "b"), ("u", "c")]),
            ([{"role": "system", "content": "s"}, {"role": "user", "content": "a"}],
             [("s", "s"), ("u", "a")]),
            (HTML, [("u", HTML)]),
        ],
    )  # fmt: skip
    def test_prompts(self, rows_of, prompt, turns):
        rows = rows_of("preference", {"prompt": prompt, "chosen": "x", "rejected": "y"})
        assert said(rows.prompts[0]) == said(rows.preferences[0]) == turns

    def test_replies_lose_their_speaker_and_space_at_the_ends_only(self, rows_of):
        record = {"prompt": "p", "chosen": "Assistant: x\n\ny ", "rejected": " z: Assistant: w"}
        rows = rows_of("preference", record)
        assert rows.preferences[0].replies == ("x\n\ny", "z: Assistant: w")

    def test_messages_end_with_the_reply(self, rows_of):
        turn = {"role": "user", "content": "p"}
        record = {
            "prompt": "p",
            "chosen": [turn, {"role": "assistant", "content": "x"}],
            "rejected": [turn, {"role": "assistant", "content": "y"}],
        }
        assert rows_of("preference", record).preferences[0].replies == ("x", "y")

    def test_passages_by_path(self, rows_of):
        record = {"query": "q", "good": [{"text": "x"}], "bad": [{"text": "y"}, {"text": "z"}]}
        rows = rows_of("preference", record, prompt="query", chosen="good.0.text",
                       rejected="bad.0.text")  # fmt: skip
        assert rows.preferences[0].replies == ("x", "y")


class TestPairsOfDialogues:
    """`chosen` and `rejected` as lists of messages, whose heads are the history."""

    HEAD = (system("Be brief."), user("A soup?"), bot("Which?"), user("A cold one."))
    SAID = (("s", "Be brief."), ("u", "A soup?"), ("a", "Which?"), ("u", "A cold one."))

    @pytest.mark.parametrize(
        "prompt",
        [
            ...,  # no such column
            None,
            "",
            [],
            "A soup?",
            " A  soup?\n",
            [user("A soup?")],
            user("A soup?"),
            ["A soup?", "Which?"],
            [user("A soup?"), bot("Which?"), user("A cold one.")],
            [system("Be brief."), user("A soup?")],
            [system("Be brief.")],
            "Human: A soup?\n\nAssistant: Which?\n\nHuman: A cold one.\n\nAssistant:",
        ],
    )
    def test_history_comes_from_the_lists_whatever_the_prompt_repeats_of_it(self, rows_of, prompt):
        record = {"chosen": [*self.HEAD, bot("Gazpacho.")], "rejected": [*self.HEAD, bot("Ice.")]}
        if prompt is not ...:
            record["prompt"] = prompt
        rows = rows_of("preference", record)
        (pair,) = rows.preferences
        assert tuple(said(pair)) == tuple(said(rows.prompts[0])) == self.SAID
        assert pair.replies == ("Gazpacho.", "Ice.")
        assert said(rows.conversations[0]) == [*self.SAID, ("a", "Gazpacho.")]
        assert not counted(rows)

    @pytest.mark.parametrize(
        ("prompt", "chosen", "rejected"),
        [
            ([*HEAD], [bot("Gazpacho.")], [bot("Ice.")]),
            ([*HEAD], bot("Gazpacho."), bot("Ice.")),
            ([*HEAD], "Gazpacho.", bot("Ice.")),
            ([*HEAD], [*HEAD, bot("Gazpacho.")], [bot("Ice.")]),
            ([*HEAD[:2]], [*HEAD[2:], bot("Gazpacho.")], [*HEAD[2:], bot("Ice.")]),
            ([*HEAD[1:]], [HEAD[0], bot("Gazpacho.")], [HEAD[0], bot("Ice.")]),
        ],
    )
    def test_replies_alone_follow_the_prompt(self, rows_of, prompt, chosen, rejected):
        record = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        (pair,) = rows_of("preference", record).preferences
        assert tuple(said(pair)) == self.SAID
        assert pair.replies == ("Gazpacho.", "Ice.")

    def test_keys_of_other_makers(self, rows_of):
        factory = {
            "conversations": [human("A soup?"), gpt("Which?"), human("A cold one.")],
            "chosen": gpt("Gazpacho."),
            "rejected": gpt("Ice."),
            "system": "Be brief.",
        }
        (pair,) = rows_of("preference", factory, prompt="conversations").preferences
        assert tuple(said(pair)) == self.SAID
        openai = {
            "input": {"messages": [{**self.HEAD[0], "role": "developer"}, *self.HEAD[1:]]},
            "preferred_output": [bot("Gazpacho.")],
            "non_preferred_output": [bot("Ice.")],
        }
        (other,) = rows_of(
            "preference", openai, prompt="input.messages", chosen="preferred_output",
            rejected="non_preferred_output").preferences  # fmt: skip
        assert other == pair

    @pytest.mark.parametrize(
        "rejected",
        [
            [user("A soup?"), bot("Hot?"), user("A cold one."), bot("Ice.")],
            [user("A soup?"), bot("Ice.")],
            [system("Be brief."), user("A soup?"), bot("Which?"), user("A cold one."), bot("Ice.")],
            [user("A stew?"), bot("Which?"), user("A cold one."), bot("Ice.")],
        ],
    )
    def test_dialogues_that_part_earlier_are_not_compared(self, rows_of, rejected):
        record = {"chosen": [*self.HEAD[1:], bot("Gazpacho.")], "rejected": rejected}
        rows = rows_of("preference", record)
        assert not rows.preferences
        assert said(rows.conversations[0]) == [*self.SAID[1:], ("a", "Gazpacho.")]
        assert tuple(said(rows.prompts[0])) == self.SAID[1:]
        assert counted(rows) == {"history_differs": 1}

    def test_the_same_reply_twice_is_no_pair(self, rows_of):
        both = [user("a"), bot("b")]
        rows = rows_of("preference", {"chosen": both, "rejected": both})
        assert not rows.preferences
        assert counted(rows) == {"duplicate_reply": 1}

    @pytest.mark.parametrize(
        ("prompt", "lists", "words"),
        [
            ("A stew?", True, ["a str: 'A stew?'", "a str: 'A soup?'", "`options.prompt: null`"]),
            ([user("A soup?"), bot("Hot?")], True, ["a str: 'Hot?'"]),
            ([*HEAD, bot("x"), user("y")], True, ["a str: 'y'"]),
            ([system("Be long."), user("A soup?")], True, ["'Be long.'", "'Be brief.'"]),
            ([user("a"), bot("b")], False, ["does not end with what the user says"]),
        ],
    )
    def test_prompts_that_are_not_the_head_of_the_lists(self, rows_of, prompt, lists, words):
        head = self.HEAD if lists else ()
        record = {
            "prompt": prompt,
            "chosen": [*head, bot("x")],
            "rejected": [*head, bot("y")],
        }
        with pytest.raises(DataError) as error:
            rows_of("preference", record)
        for word in words:
            assert word in str(error.value)

    def test_null_leaves_the_prompt_to_the_lists(self, rows_of):
        record = {"prompt": "?", "chosen": [user("a"), bot("x")], "rejected": [user("a"), bot("y")]}
        assert said(rows_of("preference", record, prompt=None).preferences[0]) == [("u", "a")]
        with pytest.raises(DataError, match="no prompt before it"):
            rows_of("preference", {"chosen": "x", "rejected": "y"}, prompt=None)

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
            ([{"text": "a", "image": None}], "a"),
            (["a", " b"], "a b"),
        ],
    )
    def test_texts_in_parts(self, rows_of, content, text):
        record = {"chosen": [user(content), bot("x")], "rejected": [user(content), bot("y")]}
        assert said(rows_of("preference", record).preferences[0]) == [("u", text)]

    @pytest.mark.parametrize(
        ("message", "reason", "words"),
        [
            (bot([{"type": "image_url", "image_url": "x"}]), "part_unknown", ["'image_url'"]),
            (bot([{"type": "text", "text": None}]), "text_empty", ["message 2", "no text"]),
            ({**bot(None), "tool_calls": [{"id": 1}]}, "tool_calls", ["`tool_calls`", "message 2"]),
            ({"role": "tool", "content": "x"}, "tool_calls", ["'tool'", "message 2"]),
            ({"from": "function_call", "value": "x"}, "tool_calls", ["'function_call'"]),
            ({"role": "cat", "content": "x"}, "role_unknown", ["'cat'", "gpt"]),
            ("x", "not_a_message", ["a str: 'x'", "message 2", "chosen"]),
            (user("x"), "no_reply", ["does not end with a reply", "chosen"]),
            (bot(""), "text_empty", ["no text"]),
            ([bot("x")], "not_a_message", ["a list"]),
        ],
    )
    def test_messages_that_are_no_text(self, rows_of, message, reason, words):
        good = {"chosen": [user("a"), bot("x")], "rejected": [user("a"), bot("y")]}
        bad = {**good, "chosen": [user("a"), message]}
        with pytest.raises(DataError) as error:
            rows_of("preference", good, bad)
        for word in [":2", *words]:
            assert word in str(error.value)
        assert counted(rows_of("preference", good, bad, invalid="drop")) == {reason: 1}

    def test_keys_that_nobody_reads_are_counted_by_row(self, read):
        odd = {**bot("x"), "weight": 1, "name": "", "tool_calls": [], "images": None}
        part = [{"type": "text", "text": "a", "cache": 1}]
        record = {
            "prompt": [{**user("a"), "id": 3}],
            "chosen": [user(part), {**odd}, user("b"), odd],
            "rejected": [user("a"), bot("x"), user("b"), bot("y")],
        }
        faults, _ = read("preference", record, record)
        assert faults.unread == {
            "prompt[].id": 2,
            "chosen[].weight": 2,
            "chosen[].content[].cache": 2,
        }

    @pytest.mark.parametrize("key", ["chosen", "rejected"])
    def test_a_list_beside_a_text_is_no_pair(self, rows_of, key):
        record = {"prompt": "a", "chosen": "x", "rejected": "y", key: [user("a"), bot("z")]}
        with pytest.raises(DataError, match="messages") as error:
            rows_of("preference", record)
        assert "two texts, or two lists of messages" in str(error.value)


class TestPairsOfTexts:
    @pytest.mark.parametrize(
        ("start", "hint"),
        [
            ("\n\nHuman: a\n\nAssistant:", "`format: hh`"),
            ("User: a\n\nBot:", "`format: hh` and `options.speakers: [User, Bot]`"),
            ("Figs are sweet, and", "write it to a column of its own"),
            ("", "set `options.prompt` to the right column"),
        ],
    )
    def test_without_a_prompt(self, rows_of, start, hint):
        record = {"chosen": f"{start} x", "rejected": f"{start} y", "other": "z"}
        with pytest.raises(DataError) as error:
            rows_of("preference", record)
        assert hint in str(error.value)
        if "speakers" in hint:
            rows = rows_of("hh", record, speakers=["User", "Bot"])
            assert rows.preferences[0].replies == ("x", "y")
            assert said(rows.prompts[0]) == [("u", "a")]

    def test_dialogues_beside_a_prompt(self, rows_of):
        start = "\n\nHuman: a\n\nAssistant:"
        record = {"prompt": "a", "chosen": f"{start} x", "rejected": f"{start} y"}
        with pytest.raises(DataError, match="whole dialogues") as error:
            rows_of("preference", record)
        assert "`format: hh`" in str(error.value)

    def test_other_columns_are_named_in_the_hint(self, rows_of):
        start = "\n\nHuman: a\n\nAssistant:"
        record = {"good": f"{start} x", "bad": f"{start} y"}
        with pytest.raises(DataError) as error:
            rows_of("preference", record, chosen="good", rejected="bad")
        assert "`options.chosen: good` and `options.rejected: bad`" in str(error.value)

    def test_replies_that_begin_with_the_prompt_are_noticed(self, read):
        asked = "What is a fig?"
        records = [
            {"prompt": asked, "chosen": f"{asked} A fruit.", "rejected": f"{asked} A tree."},
            {"prompt": asked, "chosen": f"{asked} A fruit.", "rejected": "A tree."},
        ]
        faults, rows = read("preference", *records)
        assert faults.noticed == {"prompt_repeated": 1}
        assert len(rows) == 6

    def test_a_system_message_in_a_column(self, rows_of):
        record = {"system": "s", "question": "q", "chosen": "x", "rejected": "y"}
        rows = rows_of("preference", record, {**record, "system": ""}, prompt="question")
        assert [said(one) for one in rows.prompts] == [[("s", "s"), ("u", "q")], [("u", "q")]]
        rows = rows_of("preference", record, prompt="question", system="")
        assert said(rows.prompts[0]) == [("u", "q")]

    def test_no_column_for_the_worse_reply(self, rows_of):
        record = {"prompt": "p", "chosen": "x", "rejected": ""}
        rows = rows_of("preference", record, rejected=None)
        assert said(rows.conversations[0]) == [("u", "p"), ("a", "x")]
        assert len(rows.prompts) == 1
        assert not rows.preferences

    def test_turns_on_one_line_are_cut_on_request_only(self, read):
        prompt = "Human: Hi Assistant: Yo Human: And? Assistant:"
        record = {"prompt": prompt, "chosen": "x", "rejected": "y"}
        faults, rows = read("preference", record, inline=True)
        assert said(rows[-1]) == [("u", "Hi"), ("a", "Yo"), ("u", "And?")]
        assert not faults.noticed
        faults, rows = read("preference", record)
        assert said(rows[-1]) == [("u", "Hi Assistant: Yo Human: And?")]
        assert faults.noticed == {"transcript": 1}

    def test_a_chat_that_somebody_pasted_stays_whole(self, read):
        pasted = "Who is right here? Human: figs! Assistant: Nuts. Human: no"
        record = {"prompt": f"\n\nHuman: {pasted}\n\nAssistant:", "chosen": "x", "rejected": "y"}
        faults, rows = read("preference", record)
        assert said(rows[-1]) == [("u", pasted)]
        assert faults.noticed == {"transcript": 1}
