"""Each format on rows that are right but awkward: empty, nested, HTML, many paragraphs, ties."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.oasst_trees import bot, tree, user
from support.read_rows import counted, said

from rlhf.data.formats.plain import pieces
from rlhf.data.formats.source import FORMATS, Source
from rlhf.data.formats.translations import PROMPTS
from rlhf.errors import ConfigError, DataError

HTML = "<p>One &amp; two</p>\n\n<pre>Human: x</pre>\n"


class TestHumanAssistant:
    def test_paragraphs_of_turns_stay_whole(self, rows_of):
        history = "\n\nHuman: One\n\nHuman rights: two\n\nAssistant: a\n\n- b\n\n\nc\n\nHuman: So?"
        record = {"chosen": f"{history}\n\nAssistant: Yes.\n\nIndeed.", "rejected":
                  f"{history}\n\nAssistant: No. Assistant: no."}  # fmt: skip
        (pair,) = rows_of("hh", record).preferences
        assert said(pair) == [
            ("u", "One\n\nHuman rights: two"),
            ("a", "a\n\n- b\n\n\nc"),
            ("u", "So?"),
        ]
        assert pair.replies == ("Yes.\n\nIndeed.", "No. Assistant: no.")

    def test_views(self, rows_of):
        record = {key: f"\n\nHuman: q\n\nAssistant: {key}" for key in ("chosen", "rejected")}
        rows = rows_of("hh", record)
        assert [len(rows.conversations), len(rows.preferences), len(rows.prompts)] == [1, 1, 1]
        assert said(rows.conversations[0])[-1] == ("a", "chosen")
        assert rows.preferences[0].group == rows.prompts[0].group == rows.conversations[0].group

    def test_turns_that_one_speaker_has_in_a_row_are_one(self, rows_of):
        text = "\n\nHuman: a\n\nHuman: b\n\nAssistant: c\n\nAssistant: d"
        rows = rows_of(
            "hh", {"chosen": text, "rejected": "\n\nHuman: a\n\nHuman: b\n\nAssistant: e"}
        )
        assert said(rows.conversations[0]) == [("u", "a\n\nb"), ("a", "c\n\nd")]
        assert rows.preferences[0].replies == ("c\n\nd", "e")

    def test_other_pairs_are_named(self, rows_of):
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        with pytest.raises(DataError, match="holds a list") as error:
            rows_of("hh", {"chosen": messages, "rejected": messages})
        assert "`format: preference`" in str(error.value)

    def test_dialogues_that_part_earlier_are_not_compared(self, rows_of):
        record = {
            "chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d",
            "rejected": "\n\nHuman: a\n\nAssistant: x",
        }
        rows = rows_of("hh", record)
        assert not rows.preferences
        assert len(rows.conversations) == 1
        assert counted(rows) == {"history_differs": 1}

    def test_the_same_reply_twice_is_no_pair(self, rows_of):
        text = "\n\nHuman: a\n\nAssistant: b"
        rows = rows_of("hh", {"chosen": text, "rejected": f"{text} "})
        assert not rows.preferences
        assert counted(rows) == {"duplicate_reply": 1}

    def test_html_and_windows_lines(self, rows_of):
        text = f"\r\n\r\nHuman: {HTML}\r\n\r\nAssistant: <b>b</b>"
        rows = rows_of("hh", {"chosen": text, "rejected": text.replace("b</b>", "c</b>")})
        assert said(rows.prompts[0]) == [("u", HTML.strip())]


class TestTranscripts:
    def test_speakers_inside_of_lines_and_a_column_for_the_reply(self, rows_of):
        record = {"prompt": "USER: Hi there ASSISTANT: Yo USER: And? ASSISTANT:", "label": "Hm: no"}
        rows = rows_of("transcript", record, text="prompt", reply="label",
                       speakers=["USER", "ASSISTANT"])  # fmt: skip
        assert said(rows.conversations[0]) == [
            ("u", "Hi there"), ("a", "Yo"), ("u", "And?"), ("a", "Hm: no")]  # fmt: skip
        assert [one.id for one in rows.prompts] == ["1/1", "1/2"]

    def test_a_reply_in_a_column_is_not_cut(self, rows_of):
        record = {"text": "Human: a Assistant:", "reply": " Assistant: b Human: c\n\nHuman: d "}
        for inline in (True, False):
            rows = rows_of("transcript", record, reply="reply", inline=inline)
            assert said(rows.conversations[0]) == [("u", "a"), ("a", "b Human: c\n\nHuman: d")]

    @pytest.mark.parametrize(
        ("text", "inline", "turns"),
        [
            ("Human: a Human: b Assistant: c\nAssistant: d", True, ["a\nb", "c\nd"]),
            ("Human: a\n\nHuman: b\n\nAssistant: c\n \nAssistant: d", True,
             ["a\n\nb", "c\n\nd"]),
            ("Human: a\n\nHuman: b\n\nAssistant: c\n \nAssistant: d", False,
             ["a\n\nb", "c\n\nd"]),
            ("Human: a\nHuman: b\n\nAssistant: c", False, ["a\nHuman: b", "c"]),
        ],
    )  # fmt: skip
    def test_turns_that_one_speaker_has_in_a_row(self, rows_of, text, inline, turns):
        rows = rows_of("transcript", {"text": text}, inline=inline)
        assert [one for _, one in said(rows.conversations[0])] == turns

    def test_names_with_signs_need_no_space_before_them(self, rows_of):
        record = {"text": "### Human: a# b### Assistant: c: d.### Human: e### Assistant: f"}
        rows = rows_of("transcript", record, speakers=["### Human", "### Assistant"])
        assert [one for _, one in said(rows.conversations[0])] == ["a# b", "c: d.", "e", "f"]

    def test_names_in_brackets(self, rows_of):
        rows = rows_of(
            "transcript", {"text": "<human>: a\n<bot>: b\n\nc"}, speakers=["<human>", "<bot>"]
        )
        assert said(rows.conversations[0]) == [("u", "a"), ("a", "b\n\nc")]

    def test_one_that_waits_for_a_reply_is_a_prompt(self, rows_of):
        for text in ("Human: a Assistant:", "Human: a"):
            rows = rows_of("transcript", {"text": text})
            assert not rows.conversations
            assert said(rows.prompts[0]) == [("u", "a")]


class TestQuestions:
    def test_markup_and_space_are_kept(self, rows_of):
        rows = rows_of("qa", {"question": HTML, "answer": f" {HTML}"})
        assert said(rows.conversations[0]) == [("u", HTML), ("a", f" {HTML}")]

    def test_paths_templates_and_numbers(self, rows_of):
        record = {
            "a.b": "dotted",
            "a": {"b": [{"c": "inner"}]},
            "n": 2.5,
            "none": None,
            "braces": "{n}",
        }
        rows = rows_of("qa", record, question="{a.b} {a.b.0.c?} {none?}{braces}", answer="= {n}")
        assert said(rows.conversations[0]) == [("u", "dotted inner {n}"), ("a", "= 2.5")]

    def test_no_answer(self, rows_of):
        records = [{"question": "q", "answers": {"text": one}} for one in ([], ["a"], [""], None)]
        rows = rows_of("qa", *records, answer="answers.text.0", no_answer="?")
        assert [one.messages[-1].content for one in rows.conversations] == ["?", "a", "?", "?"]

    def test_system_message_where_there_is_one(self, rows_of):
        records = [{"question": "q", "answer": "a", "s": one} for one in ("be kind", "", None)]
        rows = rows_of("qa", *records, {"question": "q", "answer": "a"}, system="s")
        assert [len(one.messages) for one in rows.conversations] == [3, 2, 2, 2]

    def test_each_element_is_a_row(self, rows_of):
        record = {"question": "q", "answer": ["a", "b"], "why": ["x", "y"]}
        rows = rows_of("qa", record, answer="{answer}: {why}", each=["answer", "why"])
        assert [(one.id, one.messages[-1].content) for one in rows.conversations] == [
            ("1.1", "a: x"), ("1.2", "b: y")]  # fmt: skip
        assert len({one.id for one in rows.prompts}) == 2

    def test_an_empty_list_gives_nothing(self, rows_of):
        rows = rows_of("qa", {"question": "q", "answer": []}, {"question": "q", "answer": ["a"]},
                       each=["answer"])  # fmt: skip
        assert len(rows.conversations) == 1
        assert counted(rows) == {"empty_list": 1}

    def test_what_options_change_is_counted(self, write_lines):
        path = write_lines({"question": "a b c", "answer": "x"}, {"question": "a", "answer": ""})
        source = Source("qa", path, {"max_words": 2, "no_answer": "x"})
        assert [said(one)[0][1] for one in source] == ["a b", "a b", "a", "a"]
        assert source.faults.noticed == {"cut": 1, "no_answer": 1}

    def test_words_are_cut_and_the_request_is_drawn_by_the_text(self, rows_of):
        records = [{"text": f"{i} two\nthree four", "summary": "s"} for i in range(30)]
        rows = rows_of("summary", *records, max_words=2, prompts=["A {}", "{} B"])
        requests = [one.messages[0].content for one in rows.conversations]
        assert {one.removeprefix("A ").removesuffix(" B") for one in requests} == {
            f"{i} two\nthree" for i in range(30)
        }
        assert 5 < sum(one.startswith("A ") for one in requests) < 25
        again = rows_of("summary", *records[::-1], max_words=2, prompts=["A {}", "{} B"])
        assert [one.messages[0].content for one in again.conversations] == requests[::-1]

    def test_sentences_are_joined(self, rows_of):
        record = {"text": ["One.", "Two."], "summary": ["Three.", "Four."]}
        rows = rows_of("summary", record, prompts=["{}"])
        assert said(rows.conversations[0]) == [("u", "One. Two."), ("a", "Three. Four.")]


class TestExclude:
    def test_rows_with_a_text_are_left_out(self, rows_of):
        answers = ["As an AI model, no.", "yes", "Openai says so", "open AI"]
        records = [{"question": "q", "answer": one} for one in answers]
        rows = rows_of("qa", *records, exclude=["as an ai ", "OPENAI"])
        assert [one.messages[-1].content for one in rows.conversations] == ["yes", "open AI"]
        assert len(rows.prompts) == 4
        assert counted(rows) == {"excluded": 2}

    def test_replies_and_merged_lists_count(self, rows_of):
        records = [
            {"prompt": "p", "answer_0": "a", "answer_1": one, "s0": 2, "s1": i}
            for i, one in enumerate("bx")
        ] + [{"prompt": "q", "answer_0": "a", "answer_1": "b", "s0": 1, "s1": 0}]
        for merge, left in ((False, 2), (True, 1)):
            rows = rows_of("comparison", *records, scores=["s0", "s1"], exclude=["x"], merge=merge)
            assert len(rows.preferences) == left


class TestFeedbackOption:
    @pytest.mark.parametrize(
        ("way", "labels"),
        [
            ("best", {2: "+-", 3: "+--", 4: "+---", 5: "+----"}),
            ("halves", {2: "+-", 3: "+ -", 4: "++--", 5: "++ --"}),
        ],
    )
    def test_ranked_replies_give_good_and_bad_ones(self, rows_of, way, labels):
        records = [{"prompt": f"p{k}", "replies": list("abcde"[:k])} for k in labels]
        plain = rows_of("ranked", *records)
        rows = rows_of("ranked", *records, feedback=way)
        assert not plain.feedbacks
        assert (rows.preferences, rows.prompts) == (plain.preferences, plain.prompts)
        for preference, signs in zip(rows.preferences, labels.values(), strict=True):
            own = [one for one in rows.feedbacks if one.history == preference.history]
            found = {one.reply: "-+"[one.desirable] for one in own}
            expected = dict(zip("abcde", signs, strict=False))
            assert found == {reply: sign for reply, sign in expected.items() if sign != " "}
            assert {one.group for one in own} == {preference.group}
        assert len({one.id for one in rows.feedbacks}) == len(rows.feedbacks)

    def test_replies_that_wait_for_the_end_and_what_is_known_of_them(self, rows_of):
        labels = {"quality": {"value": 0.5, "count": 1}}
        good, bad = (bot(name, rank, labels=labels) for rank, name in enumerate(("x", "y")))
        rows = rows_of("oasst", tree(user("q", good, bad)), feedback="halves")
        assert [one.desirable for one in rows.feedbacks] == [True, False]
        assert [one.properties for one in rows.feedbacks] == list(rows.preferences[0].properties)
        assert rows.feedbacks[0].properties is not None
        records = [{"prompt": "p", "response": one, "score": i} for i, one in enumerate("ba")]
        rows = rows_of("scored", *records, feedback="best")
        assert {one.reply: one.desirable for one in rows.feedbacks} == {"a": True, "b": False}

    def test_excluded_replies_are_none(self, rows_of):
        rows = rows_of("ranked", {"prompt": "p", "replies": ["a", "b"]}, feedback="best",
                       exclude=["b"])  # fmt: skip
        assert [one.reply for one in rows.feedbacks] == ["a"]

    @pytest.mark.parametrize(("name", "way"), [("ranked", "worst"), ("labelled", "best")])
    def test_what_is_wrong(self, rows_of, name, way):
        with pytest.raises(ConfigError, match=r"options\.feedback"):
            rows_of(name, {"prompt": "p", "replies": ["a", "b"]}, feedback=way)


class TestAlpaca:
    @pytest.mark.parametrize(
        ("given", "question"),
        [
            ("x", "Do it.\nx"),
            ("", "Do it."),
            (None, "Do it."),
            ("<noinput>", "Do it."),
            ("No input.", "Do it."),
            ("N/A", "Do it."),
            ("None", "Do it.\nNone"),
            ("do", "Do it.\ndo"),
            ("Do it.", "Do it.\nDo it."),
            (3, "Do it.\n3"),
        ],
    )
    def test_inputs_that_say_nothing_are_left_out(self, write_lines, given, question):
        record = {"instruction": "Do it.", "input": given, "output": "Done"}
        source = Source("alpaca", write_lines(record))
        assert said(next(iter(source))) == [("u", question), ("a", "Done")]
        left_out = bool(given) and question == "Do it."
        assert source.faults.noticed["no_input"] == left_out

    def test_what_was_said_before(self, rows_of):
        record = {"instruction": "And now?", "input": "", "output": "Figs.", "system": "Sell.",
                  "history": [["Nuts?", "No."], ["Why?", "Sold."]]}  # fmt: skip
        rows = rows_of("alpaca", record)
        before = [("s", "Sell."), ("u", "Nuts?"), ("a", "No."), ("u", "Why?"), ("a", "Sold.")]
        assert said(rows.conversations[0]) == [*before, ("u", "And now?"), ("a", "Figs.")]
        assert said(rows.prompts[-1]) == [*before, ("u", "And now?")]
        assert [one.id for one in rows.prompts] == ["1/1", "1/2", "1/3"]

    @pytest.mark.parametrize("history", [[], None, ""])
    def test_nothing_was_said_before(self, rows_of, history):
        record = {"instruction": "Do it.", "output": "Done", "history": history}
        assert len(rows_of("alpaca", record).conversations[0].messages) == 2

    def test_history_in_another_column_or_none(self, rows_of):
        record = {"instruction": "q", "output": "a", "history": "of Rome", "past": [["b", "c"]]}
        rows = rows_of("alpaca", record, history="past")
        assert said(rows.prompts[0]) == [("u", "b")]
        rows = rows_of("alpaca", record, history="")
        assert said(rows.prompts[0]) == [("u", "q")]

    def test_no_column_for_the_input(self, rows_of):
        rows = rows_of("alpaca", {"instruction": "Do it.", "output": "Done"})
        assert said(rows.prompts[0]) == [("u", "Do it.")]

    def test_other_names(self, rows_of):
        record = {"task": "t", "about": "x", "response": "r", "sys": "s"}
        rows = rows_of("alpaca", record, instruction="task", input="about", output="response",
                       system="sys")  # fmt: skip
        assert said(rows.conversations[0]) == [("s", "s"), ("u", "t\nx"), ("a", "r")]


class TestMessages:
    def test_other_names_and_a_system_column(self, rows_of):
        record = {"turns": [{"who": "q", "says": "a"}, {"who": "r", "says": "b"}], "sys": "s"}
        rows = rows_of("messages", record, column="turns", role="who", content="says",
                       system="sys", roles={"q": "user", "r": "assistant"})  # fmt: skip
        assert said(rows.conversations[0]) == [("s", "s"), ("u", "a"), ("a", "b")]

    def test_sharegpt_joins_what_one_says_in_a_row(self, rows_of):
        turns = [("system", "s"), ("human", "a"), ("human", "b"), ("gpt", HTML), ("human", "c")]
        record = {"conversations": [{"from": who, "value": text} for who, text in turns]}
        rows = rows_of("sharegpt", record)
        assert said(rows.conversations[0]) == [("s", "s"), ("u", "a\nb"), ("a", HTML)]
        assert [said(one)[-1] for one in rows.prompts] == [("u", "a\nb"), ("u", "c")]


class TestDialogues:
    def test_a_narrative_goes_before_the_first_text(self, rows_of):
        record = {"dialogue": ["a", "b", "c"], "speakers": ["X", "Y", "X"], "narrative": "N."}
        rows = rows_of(
            "dialogue", record, speakers="speakers", prefix="{narrative} You are {speakers.1}."
        )
        assert said(rows.conversations[0]) == [("u", "N. You are Y. a"), ("a", "b")]
        assert len(rows.prompts) == 2

    @pytest.mark.parametrize("speakers", [["X", "Y", "Z"], ["X", "X", "Y"], ["X", "Y", "Y"]])
    def test_other_than_two_in_turn_are_left_out(self, rows_of, speakers):
        good = {"dialogue": ["a", "b"], "speakers": ["X", "Y"]}
        bad = {"dialogue": ["a", "b", "c"], "speakers": speakers}
        rows = rows_of("dialogue", good, bad, speakers="speakers")
        assert len(rows.conversations) == 1
        assert counted(rows) == {"speakers": 1}

    def test_objects_with_both_texts_or_one(self, rows_of):
        both = {"dialogue": [{"in": "a", "out": "b"}, {"in": "c", "out": "d"}]}
        one = {"dialogue": [{"in": "a", "out": None}, {"in": None, "out": "b"}, {"in": "c"}]}
        rows = rows_of("dialogue", both, one, keys=["in", "out"])
        assert [said(row) for row in rows.conversations] == [
            [("u", "a"), ("a", "b"), ("u", "c"), ("a", "d")],
            [("u", "a"), ("a", "b")],
        ]

    def test_keys_that_nobody_reads_are_named(self, write_lines):
        turns = [{"in": "a", "out": "b", "mood": "glad"}, {"in": "c", "out": "", "mood": "sad"}]
        source = Source("dialogue", write_lines({"dialogue": turns}), {"keys": ["in", "out"]})
        assert list(source)
        assert source.faults.unread == {"dialogue[].mood": 1}


class TestTranslations:
    RECORD = {"translation": {"de": "Guten Tag {}", "en": "Good day"}}  # noqa: RUF012

    @pytest.mark.parametrize("direction", ["forward", "backward"])
    def test_direction(self, rows_of, direction):
        rows = rows_of("translation", self.RECORD, pair="de-en", direction=direction)
        request, answer = rows.conversations[0].messages
        source, target = ("Guten Tag {}", "Good day")[:: 1 if direction == "forward" else -1]
        assert answer.content == target
        wordings = PROMPTS["en" if direction == "forward" else "de"]
        assert request.content in [one.replace("{}", source) for one in wordings]

    def test_both_directions(self, rows_of):
        rows = rows_of("translation", self.RECORD, pair="de-en", direction="both")
        assert [one.id for one in rows.conversations] == ["1.1", "1.2"]

    def test_directions_are_drawn_evenly_and_alike(self, rows_of):
        records = [{"translation": {"de": f"Satz {i}", "en": f"Sentence {i}"}} for i in range(100)]
        rows = rows_of("translation", *records, pair="de-en")
        replies = [one.messages[-1].content for one in rows.conversations]
        assert 30 < sum(one.startswith("Satz") for one in replies) < 70
        again = rows_of("translation", *records[::-1], pair="de-en")
        assert replies == [one.messages[-1].content for one in again.conversations][::-1]

    @pytest.mark.parametrize(
        "language", ["ar", "de", "fr", "en", "it", "nl", "tr", "ru", "ms", "ko", "ja", "zh"]
    )
    def test_the_twelve_languages_have_requests(self, rows_of, language):
        other = "fr" if language == "en" else "en"
        record = {"translation": {other: "x", language: "y"}}
        rows = rows_of("translation", record, pair=f"{other}-{language}", direction="forward")
        assert "x" in rows.prompts[0].history[0].content
        assert len(PROMPTS[language]) >= 3

    def test_a_language_without_requests_is_translated_from(self, rows_of):
        record = {"translation": {"gu": "x", "en": "y"}}
        rows = rows_of("translation", record, pair="gu-en")
        assert rows.conversations[0].messages[-1].content == "y"
        own = rows_of("translation", record, pair="gu-en", direction="backward",
                      prompts={"gu": ["To Gujarati: {}"]})  # fmt: skip
        assert said(own.conversations[0]) == [("u", "To Gujarati: y"), ("a", "x")]

    def test_the_language_stands_in_a_column(self, rows_of):
        records = [
            {"subject_id": one, "src_text": "x", "tgt_text": "y"} for one in ("tur_t1", "ita_t2")
        ]
        rows = rows_of("translation", *records, pair="en-xx", source="src_text", target="tgt_text",
                       target_column="subject_id", codes={"tur": "tr", "ita": "it"},
                       direction="forward")  # fmt: skip
        for row, language in zip(rows.prompts, ("tr", "it"), strict=True):
            request = row.history[0].content
            assert request in [one.replace("{}", "x") for one in PROMPTS[language]]


class TestPlainText:
    def test_rows_are_plain(self, rows_of):
        rows = rows_of("text", {"text": f"  {HTML}"})
        assert said(rows.conversations[0]) == [("t", HTML.strip())]
        assert not rows.prompts

    def test_pieces_share_a_group(self, rows_of):
        rows = rows_of("text", {"text": "word " * 100}, max_characters=50)
        assert len(rows.conversations) == 10
        assert len({one.group for one in rows.conversations}) == 1
        assert [one.id for one in rows.conversations][:2] == ["1/1", "1/2"]

    @pytest.mark.parametrize(
        ("text", "limit", "found"),
        [
            ("one two three", 100, ["one two three"]),
            ("aaaa bb\n\ncccc d", 12, ["aaaa bb", "cccc d"]),
            ("一二三。四五六七", 6, ["一二三。", "四五六七"]),
            ("x" * 10, 4, ["xxxx", "xxxx", "xx"]),
            (" \n a \n ", 3, ["a"]),
        ],
    )
    def test_cuts(self, text, limit, found):
        assert pieces(text, limit) == found

    def test_nothing_is_lost(self):
        text = "".join(f"word{i}. " if i % 7 else f"word{i}\n\n" for i in range(500))
        assert "".join("".join(pieces(text, 90)).split()) == "".join(text.split())
        assert max(map(len, pieces(text, 90))) <= 90


def flat(node, parent=None, tree_id=None):
    """The messages of a tree, one by one, as on the hub."""
    message = {key: value for key, value in node.items() if key != "replies"}
    tree_id = tree_id or message["message_id"]
    message |= {"parent_id": parent, "message_tree_id": tree_id, "tree_state": "ready_for_export"}
    yield message
    for reply in node["replies"]:
        yield from flat(reply, message["message_id"], tree_id)


class TestOpenAssistant:
    TREE = user("q", bot("a", 1, user("q2", bot("a2"))), bot("b", 0))

    @pytest.mark.parametrize("order", [1, -1])
    def test_messages_one_by_one_are_the_tree(self, rows_of, order):
        other = user("r", bot("s"))
        single = [*flat(self.TREE), *flat(other)]
        found = rows_of("oasst", *single[::order])
        whole = rows_of("oasst", tree(self.TREE), tree(other))
        for view in ("conversations", "preferences", "prompts"):
            assert sorted(getattr(found, view), key=str) == sorted(getattr(whole, view), key=str)

    def labelled(self, value, hub):
        if hub:
            return {"labels": {"name": ["spam", "quality"], "value": [0.0, value], "count": [2, 3]}}
        return {"labels": {"quality": {"value": value, "count": 3}, "spam": {"value": 0.0}}}

    @pytest.mark.parametrize("hub", [False, True])
    def test_minimum_of_quality(self, rows_of, hub):
        replies = [
            bot("good", 0) | self.labelled(0.8, hub),
            bot("poor", 1) | self.labelled(0.2, hub),
            bot("unlabelled", 2) | {"labels": None},
        ]
        rows = rows_of("oasst", tree(user("q", *replies)), min_quality=0.5)
        assert [one.id for one in rows.conversations] == ["good", "unlabelled"]
        assert counted(rows) == {"quality": 1}

    @pytest.mark.parametrize(
        ("review", "kept"),
        [("approved", ["a"]), ("not_rejected", ["a", "b"]), ("any", ["a", "b", "c"])],
    )
    def test_state_of_the_review(self, rows_of, review, kept):
        results = {"a": True, "b": None, "c": False}
        replies = [bot(one, i, review_result=results[one]) for i, one in enumerate(results)]
        root = user("q", *replies, review_result=True)
        rows = rows_of("oasst", tree(root), review=review)
        assert [one.id for one in rows.conversations] == kept

    def test_what_models_wrote(self, rows_of):
        root = user("q", bot("a", 0, synthetic=True, model_name="m"), bot("b", 1, synthetic=False))
        assert len(rows_of("oasst", tree(root)).conversations) == 2
        rows = rows_of("oasst", tree(root), synthetic=False)
        assert [one.id for one in rows.conversations] == ["b"]
        assert counted(rows) == {"synthetic": 1}

    def test_states_of_trees(self, rows_of):
        growing = tree(user("q", bot("a")), tree_state="growing")
        assert len(rows_of("oasst", growing, states=["growing"]).conversations) == 1


def test_every_format_is_tested_here_or_with_its_kind():
    files = [Path(__file__), Path(__file__).with_name("test_preferences.py")]
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    assert [name for name in FORMATS if f'"{name}"' not in text] == []
