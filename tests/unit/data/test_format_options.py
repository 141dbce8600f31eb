"""Options that several formats have: columns by path, system messages, labels, prompts, replies."""

from __future__ import annotations

import inspect
import itertools

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.bad_inputs import GOOD
from support.read_rows import bot, counted, gpt, human, said, system, user

from rlhf.data.formats.source import FORMATS, class_of, load
from rlhf.data.rows import view_of
from rlhf.errors import ConfigError, DataError


def having(option):
    return [name for name in FORMATS if option in inspect.signature(class_of(name)).parameters]


# format → options that name columns, and a row in which each of them matters
COLUMNS = {
    "alpaca": (
        {"instruction": "q", "input": "i", "output": "a", "system": "s", "history": "h",
         "label": "l"},
        {"q": "q", "i": "N/A", "a": "a", "s": "s", "h": [["b", "c"]], "l": "bad"}),
    "choices": ({"prompt": "q", "choices": "c", "label": "l", "keys": "k"},
                {"q": "q", "c": ["a", "b"], "l": "B", "k": ["A", "B"]}),
    "comparison": ({"prompt": "q", "replies": ["a", "b"], "choice": "l", "system": "s"},
                   {"q": "q", "a": "a", "b": "b", "l": 1, "s": "s"}),
    "dialogue": (
        {"turns": "t", "speakers": "w", "prefix": "p", "system": "s", "label": "l"},
        {"t": ["a", "b"], "w": ["X", "Y"], "p": "Once:", "s": "s", "l": "bad"}),
    "hh": ({"chosen": "a", "rejected": "b", "system": "s"},
           {"a": "Human: q\n\nAssistant: a", "b": "Human: q\n\nAssistant: b", "s": "s"}),
    "labelled": ({"prompt": "q", "completion": "a", "label": "l", "system": "s"},
                 {"q": "q", "a": "a", "l": False, "s": "s"}),
    "messages": ({"column": "m", "system": "s", "label": "l"},
                 {"m": [user("q"), bot("a")], "s": "s", "l": "bad"}),
    "preference": (
        {"prompt": "q", "chosen": "a", "rejected": "b", "system": "s", "scores": ["c", "d"]},
        {"q": "What is it?", "a": "What is it? A.", "b": "What is it? B.", "s": "s", "c": 2,
         "d": "1.5"}),
    "qa": ({"question": "q", "answer": "a", "system": "s", "label": "l", "each": ["a"]},
           {"q": "q", "a": ["a", "b"], "s": "s", "l": 0}),
    "ranked": ({"prompt": "q", "replies": "r", "worst": "w", "system": "s"},
               {"q": "q", "r": ["a", "b"], "w": ["c"], "s": "s"}),
    "scored": ({"prompt": "q", "reply": "a", "scores": {"x": 1.0, "y": 2.0}, "system": "s"},
               {"q": "q", "a": "a", "x": 1, "y": 2, "s": "s"}),
    "sharegpt": ({"column": "m", "system": "s", "label": "l"},
                 {"m": [human("q"), gpt("a")], "s": "s", "l": "bad"}),
    "summary": ({"text": "t", "summary": "a", "system": "s", "label": "l"},
                {"t": ["q", "r"], "a": "a", "s": "s", "l": False}),
    "text": ({"text": "t"}, {"t": "a"}),
    "transcript": ({"text": "t", "reply": "r", "system": "s", "label": "l"},
                   {"t": "Human: a", "r": "b", "s": "s", "l": "bad"}),
    "translation": ({"source": "a", "target": "b", "target_column": "l", "column": None},
                    {"a": "a", "b": "b", "l": "de_x"}),
}  # fmt: skip


class TestColumnsByPath:
    def inside(self, value):
        if isinstance(value, dict):
            return {f"x.0.{key}": one for key, one in value.items()}
        if isinstance(value, list):
            return [f"x.0.{one}" for one in value]
        return value and f"x.0.{value}"

    @pytest.mark.parametrize("name", COLUMNS)
    @pytest.mark.parametrize("parquet", [False, True])
    def test_a_path_is_read_as_the_column_is(self, write_lines, read, name, parquet, tmp_path):
        """Also of a Parquet file, of which only columns are read that the format names."""
        options, row = COLUMNS[name]
        more = {"pair": "en-xx", "direction": "forward"} if name == "translation" else {}
        faults, rows = read(name, row, **options, **more)
        paths = {key: self.inside(value) for key, value in options.items()}
        if parquet:
            path = tmp_path / "rows.parquet"
            pq.write_table(pa.Table.from_pylist([{"x": [row], "other": 1}]), path)
            inner = load(name, path, {**paths, **more})
            views = [inner.conversations, inner.preferences, inner.feedbacks, inner.prompts]
            order = ["conversation", "preference", "feedback", "prompt"]
            assert list(itertools.chain(*views)) == sorted(
                rows, key=lambda one: order.index(view_of(one))
            )
            return
        found, inside = read(name, {"x": [row]}, **paths, **more)
        assert inside == rows
        assert (found.filtered, found.noticed) == (faults.filtered, faults.noticed)
        assert not faults.unread
        assert not found.unread

    def test_every_format_and_every_option_that_names_columns_is_here(self):
        assert set(COLUMNS) == set(FORMATS) - {"oasst"}  # whose columns have names of their own
        others = {"comparison": {"scores"}, "preference": {"margin"}}  # in place of another
        for name, (options, _) in COLUMNS.items():
            about = inspect.getdoc(class_of(name)).partition("Args:")[2]
            named = {line.strip().partition(":")[0] for line in about.splitlines()
                     if ": column" in line and "or template" not in line}  # fmt: skip
            assert named - others.get(name, set()) <= set(options), name


class TestSystem:
    @pytest.mark.parametrize("name", having("system"))
    def test_column(self, rows_of, name):
        options, row = GOOD[name]

        def first(column, **more):
            prompts = rows_of(name, {**row, column: "Be kind."}, **options, **more).prompts
            return said(prompts[0])[0]

        for column in ("system", "system_prompt"):
            assert first(column) == ("s", "Be kind.")
            assert first(column, system="")[0] == "u"
            assert first(column, system=column) == ("s", "Be kind.")
        assert first("persona", system="persona") == ("s", "Be kind.")
        assert first("persona")[0] == "u"

    @pytest.mark.parametrize("name", ["dialogue", "qa", "summary"])
    def test_template(self, rows_of, name):
        options, row = GOOD[name]
        rows = rows_of(name, {**row, "who": "a cook"}, system="You are {who}.", **options)
        assert said(rows.prompts[0])[0] == ("s", "You are a cook.")


class TestLabels:
    @pytest.mark.parametrize("name", [one for one in having("label") if one not in
                                      ("choices", "labelled")])  # fmt: skip
    def test_column(self, rows_of, name):
        options, row = GOOD[name]

        def trained(column, value, **more):
            rows = rows_of(name, {**row, column: value}, **options, **more)
            assert rows.prompts
            assert counted(rows) == ({} if rows.conversations else {"rejected_reply": 1})
            return len(rows.conversations)

        for column in ("label", "kto_tag", "tag", "is_good", "desirable"):
            assert trained(column, True) == trained(column, False, label="") == 1
            assert trained(column, False) == trained(column, False, label=column) == 0
            assert trained(column, 0) == 1  # may be a class
        assert trained("ok", False, label="ok") == 0
        assert trained("ok", False) == 1


# format → a row of a history, replies from the best to the worst, and what the prompt's column
# holds; `...`: there is none
def compared(name, prompt, *replies):
    row = {} if prompt is ... else {"prompt": prompt}
    best, worse = replies
    return {
        "comparison": [{**row, "answer_0": worse, "answer_1": best, "s0": 0, "s1": 1}],
        "labelled": [{**row, "completion": one, "label": one is best} for one in replies],
        "preference": [{**row, "chosen": best, "rejected": worse}],
        "ranked": [{**row, "replies": [best, worse]}],
        "scored": [{**row, "response": one, "score": int(one is best)} for one in replies],
    }[name]


OPTIONS = {"comparison": {"scores": ["s0", "s1"]}, "labelled": {"pairs": True}}
HEAD = [user("q"), bot("r"), user("so?")]
SAID = [("u", "q"), ("a", "r"), ("u", "so?")]
COMPARED = ["comparison", "labelled", "preference", "ranked", "scored"]


@pytest.mark.parametrize("name", COMPARED)
class TestCompared:
    def pair(self, rows_of, name, asked, *replies, **options):
        records = compared(name, asked, *replies)
        (row,) = rows_of(name, *records, **{**OPTIONS.get(name, {}), **options}).preferences
        return said(row), row.replies

    def test_prompts(self, rows_of, name):
        transcript = "Human: q\n\nAssistant: r\n\nHuman: so?\n\nAssistant:"
        listed = ["q", "r", "so?"]
        for prompt in (transcript, listed, HEAD):
            assert self.pair(rows_of, name, prompt, "a", "b") == (SAID, ("a", "b"))
        assert self.pair(rows_of, name, " a\n\ntext", "a", "b")[0] == [("u", " a\n\ntext")]

    def test_prompts_that_the_dialogues_hold(self, rows_of, name):
        dialogues = [[*HEAD, bot(one)] for one in ("a", "b")]
        for prompt in (..., None, "", [], "q", HEAD):
            assert self.pair(rows_of, name, prompt, *dialogues) == (SAID, ("a", "b"))
        assert self.pair(rows_of, name, "other", *dialogues, prompt=None) == (SAID, ("a", "b"))
        with pytest.raises(DataError, match="is not what the replies' dialogue"):
            self.pair(rows_of, name, "other", *dialogues)
        with pytest.raises(DataError, match="no prompt before it"):
            self.pair(rows_of, name, "q", "a", "b", prompt=None)

    def test_replies(self, rows_of, name):
        for replies in (["a", "b"], [bot("a"), bot("b")], [gpt("a"), gpt("b")],
                        [[bot("a")], [bot("b")]]):  # fmt: skip
            assert self.pair(rows_of, name, "q", *replies) == ([("u", "q")], ("a", "b"))

    def test_space_at_the_ends_of_replies_goes(self, rows_of, name):
        replies = [" \n a\n\n  b&amp; \t", "c"]
        assert self.pair(rows_of, name, " q ", *replies) == ([("u", " q ")], ("a\n\n  b&amp;", "c"))


@pytest.mark.parametrize("name", ["choices", "comparison", "labelled", "scored"])
def test_prompts_by_template(rows_of, name):
    options, row = GOOD[name]
    rows = rows_of(name, {**row, "t": "T"}, prompt="{t}, {more?}step by step", **options)
    assert said(rows.prompts[0]) == [("u", "T, step by step")]


@pytest.mark.parametrize("name", ["labelled", "preference"])
class TestTranscripts:
    def asked(self, rows_of, name, prompt, **options):
        return said(rows_of(name, {**GOOD[name][1], "prompt": prompt}, **options).prompts[0])

    def test_speakers(self, rows_of, name):
        prompt = "Q: a\n\nA: b\n\nQ: c\n\nA:"
        turns = [("u", "a"), ("a", "b"), ("u", "c")]
        assert self.asked(rows_of, name, prompt, speakers=["Q", "A"]) == turns
        assert self.asked(rows_of, name, prompt) == [("u", prompt)]

    def test_inline(self, rows_of, name):
        prompt = "Human: a Assistant: b Human: c Assistant:"
        turns = [("u", "a"), ("a", "b"), ("u", "c")]
        assert self.asked(rows_of, name, prompt, inline=True) == turns
        assert self.asked(rows_of, name, prompt) == [("u", "a Assistant: b Human: c")]


class TestWordings:
    @pytest.mark.parametrize(("name", "key"), [("comparison", "prompt"), ("qa", "question"),
                                               ("summary", "text")])  # fmt: skip
    def test_drawn_by_the_text(self, rows_of, name, key):
        options, row = GOOD[name]
        records = [{**row, key: f"text {i} {{}}"} for i in range(40)]
        given = {**options, "prompts": ["A: {}", "B: {}"]}
        drawn = [said(one)[0][1] for one in rows_of(name, *records, **given).prompts]
        assert {one[3:] for one in drawn} == {one[key] for one in records}
        assert 8 < sum(one.startswith("A: ") for one in drawn) < 32
        again = [said(one)[0][1] for one in rows_of(name, *records[::-1], **given).prompts]
        assert again == drawn[::-1]

    def test_of_summaries_by_default(self, rows_of):
        records = [{"text": f"text {i}", "summary": "s"} for i in range(60)]
        asked = [said(one)[0][1] for one in rows_of("summary", *records).prompts]
        assert len({one.replace(f"text {i}", "") for i, one in enumerate(asked)}) == 5


class TestQuestions:
    def test_what_is_removed_is_removed_from_all_texts(self, rows_of):
        for column, options in (("system", {}), ("s", {"system": "s"})):
            row = {"question": "q [1]", "answer": "a [2].", column: "Be [3] kind."}
            rows = rows_of("qa", row, remove=r" \[\d\]", **options)
            texts = [("s", "Be kind."), ("u", "q"), ("a", "a.")]
            assert said(rows.conversations[0]) == texts

    def test_lists_are_joined_on_request(self, rows_of):
        row = {"question": ["a", "b"], "answer": ["c", "", "d"]}
        assert said(rows_of("qa", row, join="; ").conversations[0]) == [
            ("u", "a; b"), ("a", "c; ; d")]  # fmt: skip
        with pytest.raises(DataError, match="holds a list"):
            rows_of("qa", row)

    @pytest.mark.parametrize("name", ["qa", "summary"])
    @pytest.mark.parametrize("other", [3, None, {"x": "y"}, ["z"]])
    def test_no_part_of_a_list_is_lost(self, rows_of, name, other):
        key, options = ("question", {"join": " "}) if name == "qa" else ("text", {})
        good = GOOD[name][1]
        rows = rows_of(name, good, {**good, key: ["a", other, "b"]}, invalid="drop", **options)
        assert counted(rows) == {"column_type": 1}

    def test_summaries_are_cut_after_512_words_as_spaces_divide_them(self, rows_of):
        text = " ".join(f"w{i}\nx" for i in range(600))
        rows = rows_of("summary", {"text": text, "summary": "s"}, prompts=["{}"])
        assert said(rows.prompts[0])[0][1] == " ".join(f"w{i}\nx" for i in range(512))


def test_messages_of_one_role_in_a_row(rows_of):
    row = {"messages": [user("a"), user("b"), bot("c"), bot("d")]}
    rows = rows_of("messages", row, merge=True)
    assert said(rows.conversations[0]) == [("u", "a\nb"), ("a", "c\nd")]
    with pytest.raises(DataError, match="follow each other"):
        rows_of("messages", row)


@pytest.mark.parametrize("name", ["messages", "sharegpt"])
def test_a_message_that_only_calls_a_tool(rows_of, name):
    call = {"function": {"name": "f", "arguments": "{}"}}
    row = {"messages": [user("a"), {**bot(None), "tool_calls": [call]}]}
    column = {"column": "messages"}
    with pytest.raises(DataError, match="calls a tool and says nothing"):
        rows_of(name, row, **column)
    rows = rows_of(name, row, tool_calls="text", **column)
    text = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    assert said(rows.conversations[0])[-1] == ("a", text)


@pytest.mark.parametrize("name", ["messages", "sharegpt"])
class TestChats:
    """What both formats of chats have in common."""

    COLUMN = {"column": "messages"}  # noqa: RUF012

    @pytest.mark.parametrize("key", ["weight", "train", "trainable", "loss", "mine"])
    def test_trained(self, rows_of, name, key):
        turns = [user("a"), {**bot("b"), key: 0}, user("c"), {**bot("d"), key: 1}]
        for options, found in (
            ({"trained": key}, [True, False, True, True]),
            ({}, [True, key == "mine", True, True]),
            ({"trained": ""}, [True] * 4),
        ):
            rows = rows_of(name, {"messages": turns}, **self.COLUMN, **options)
            assert [one.trained for one in rows.conversations[0].messages] == found
        rows = rows_of(name, {"messages": turns[:2]}, **self.COLUMN, trained=key)
        assert (len(rows.conversations), len(rows.prompts)) == (0, 1)
        assert counted(rows) == {"untrained": 1}

    def test_ids(self, rows_of, name):
        records = [{"id": one, "messages": [user("a"), bot("b")]} for one in ("x", None)]
        for options, ids in (({}, ["x", "2"]), ({"ids": "ignore"}, ["1", "2"])):
            rows = rows_of(name, *records, **self.COLUMN, **options)
            assert [one.id for one in rows.conversations] == ids
            assert [one.id for one in rows.prompts] == [f"{one}/1" for one in ids]

    def test_roles(self, rows_of, name):
        turns = [system("s"), {"role": "me", "content": "a"}, bot("b")]
        rows = rows_of(name, {"messages": turns}, roles={"me": "user"}, **self.COLUMN)
        assert said(rows.conversations[0]) == [("s", "s"), ("u", "a"), ("a", "b")]
        with pytest.raises(DataError, match="'me'"):
            rows_of(name, {"messages": turns}, **self.COLUMN)

    def test_other_parts_than_texts_are_named(self, rows_of, name):
        row = {"messages": [user([{"type": "image_url", "image_url": "x"}]), bot("b")]}
        with pytest.raises(DataError, match="'image_url'"):
            rows_of(name, row, **self.COLUMN)


def test_a_column_before_the_first_text(rows_of):
    row = {"dialogue": ["a", "b"], "scene": "Night."}
    rows = rows_of("dialogue", row, prefix="scene")
    assert said(rows.conversations[0]) == [("u", "Night. a"), ("a", "b")]


class TestTranslations:
    def test_source_and_target_name_columns(self, rows_of):
        row = {"src": "Tag", "out": "Day"}
        options = {"pair": "de-en", "direction": "forward", "column": None}
        rows = rows_of("translation", row, source="src", target="out", **options)
        assert said(rows.conversations[0])[-1] == ("a", "Day")
        for more in ({}, {"source": "src"}, {"target": "out"}):
            with pytest.raises(ConfigError, match=r"options\.column"):
                rows_of("translation", row, **options, **more)

    def test_one_of_them_names_a_column(self, rows_of):
        row = {"translation": {"de": "Tag", "en": "Day"}, "out": "A day"}
        rows = rows_of("translation", row, pair="de-en", direction="forward", target="out")
        assert said(rows.conversations[0])[-1] == ("a", "A day")
        assert "Tag" in said(rows.conversations[0])[0][1]

    def test_languages_by_their_codes(self, rows_of):
        row = {"translation": {"en": "Day", "xx": "Tag"}, "l": "DE-at"}
        rows = rows_of("translation", row, pair="en-xx", direction="forward", target_column="l")
        assert "German" in said(rows.prompts[0])[0][1] or "Deutsch" in said(rows.prompts[0])[0][1]


@pytest.mark.parametrize("merge", [False, True])
def test_of_two_whose_histories_differ_only_the_better_is_learned(rows_of, merge):
    row = {"answer_0": [user("p"), bot("a")], "answer_1": [user("q"), bot("b")], "s0": 1, "s1": 2}
    rows = rows_of("comparison", row, scores=["s0", "s1"], merge=merge)
    assert [said(one) for one in rows.conversations] == [[("u", "q"), ("a", "b")]]
    assert not rows.preferences
    assert counted(rows) == {"history_differs": 1}


class TestTextsAsTheyStand:
    TEXT = " \n a\r\n\n  b\rc\x0b\u2028 &amp; <p> \t"

    @pytest.mark.parametrize(
        ("name", "row", "options"),
        [
            ("qa", {"question": TEXT, "answer": TEXT}, {}),
            ("summary", {"text": TEXT, "summary": TEXT}, {"prompts": ["{}"]}),
            ("messages", {"messages": [user(TEXT), bot(TEXT)]}, {}),
            ("sharegpt", {"conversations": [human(TEXT), gpt(TEXT)]}, {}),
            ("dialogue", {"dialogue": [TEXT, TEXT]}, {}),
            ("translation", {"translation": {"a": TEXT, "b": TEXT}},
             {"pair": "a-b", "direction": "forward", "prompts": {"b": ["{}"]}}),
        ],
    )  # fmt: skip
    def test_whole(self, rows_of, name, row, options):
        rows = rows_of(name, row, **options)
        assert said(rows.conversations[0]) == [("u", self.TEXT), ("a", self.TEXT)]

    def test_but_for_space_at_their_ends(self, rows_of):
        inner = self.TEXT.strip()
        row = {"instruction": self.TEXT, "output": self.TEXT}
        assert said(rows_of("alpaca", row).conversations[0]) == [("u", inner), ("a", self.TEXT)]
        assert said(rows_of("text", {"text": self.TEXT}).conversations[0]) == [("t", inner)]
        row = {"text": f"Human: {self.TEXT} Assistant: {self.TEXT}"}
        turns = [("u", inner), ("a", inner)]
        assert said(rows_of("transcript", row).conversations[0]) == turns
        row = {"chosen": f"Human: {self.TEXT}\n\nAssistant: {self.TEXT}",
               "rejected": f"Human: {self.TEXT}\n\nAssistant: x"}  # fmt: skip
        assert said(rows_of("hh", row).conversations[0]) == turns
