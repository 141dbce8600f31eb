"""Formats: what becomes of good trees, and what each fault says or counts."""

from __future__ import annotations

import gzip
import json
import sys
from types import SimpleNamespace

import pytest
from support.oasst_trees import bot, tree, user

from rlhf.data.formats.source import FORMATS, Source, load
from rlhf.data.rows import Properties, Rows
from rlhf.errors import ConfigError, DataError

GOOD = tree(user("good", bot("good-a", 0), bot("good-b", 1)))
DEEP = tree(
    user(
        "q",
        bot("a1", 1, user("q2", bot("a2", None), text="again?")),
        bot("a0", 0, user("q3", bot("b1", 1), bot("b0", 0), bot("b2", 2)), user("q4")),
    )
)


def texts(messages):
    return [message.content.removeprefix("text of ") for message in messages]


class TestTrees:
    def test_conversations_are_threads_to_the_last_reply(self, write_lines):
        rows = load("oasst", write_lines(DEEP))
        assert [(one.id, texts(one.messages)) for one in rows.conversations] == [
            ("a2", ["q", "a1", "again?", "a2"]),
            ("b1", ["q", "a0", "q3", "b1"]),
            ("b0", ["q", "a0", "q3", "b0"]),
            ("b2", ["q", "a0", "q3", "b2"]),
        ]

    def test_thread_that_ends_on_the_prompter_ends_at_its_last_reply_once(self, write_lines):
        line = tree(user("q", bot("a", None, user("x"), user("y"))))
        rows = load("oasst", write_lines(line))
        assert [texts(one.messages) for one in rows.conversations] == [["q", "a"]]
        assert [one.id for one in rows.prompts] == ["q", "x", "y"]

    def test_preferences_are_ranked_best_first(self, write_lines):
        rows = load("oasst", write_lines(DEEP))
        assert [(one.id, texts(one.history), one.replies) for one in rows.preferences] == [
            ("q", ["q"], ("text of a0", "text of a1")),
            ("q3", ["q", "a0", "q3"], ("text of b0", "text of b1", "text of b2")),
        ]

    def test_top_k_follows_the_best_replies_and_keeps_all_ranks_in_preferences(self, write_lines):
        rows = load("oasst", write_lines(DEEP), {"top_k": 1})
        assert [one.id for one in rows.conversations] == ["b0"]
        assert [one.id for one in rows.prompts] == ["q", "q3", "q4"]
        assert [len(one.replies) for one in rows.preferences] == [2, 3]

    def test_replies_keep_their_language_and_labels(self, write_lines):
        labels = {name: {"value": i / 4, "count": 3} for i, name in enumerate(("humor", "quality"))}
        of_hub = {"name": ["quality", "spam", "humor"], "value": [0.25, 1.0, 0.0]}
        labels |= {"creativity": {"value": 1.5, "count": 1}, "spam": {"value": 0, "count": 1}}
        replies = [bot("a", 0, labels=labels), bot("b", 1, lang=None, labels="?")]
        replies.append(bot("c", 2, labels=of_hub))
        rows = load("oasst", write_lines(tree(user("q", *replies))))
        known = Properties("en", quality=0.25, humor=0.0)
        assert rows.preferences[0].properties == (known, None, known)
        found = [[one.properties for one in row.messages] for row in rows.conversations]
        assert found == [[None, known], [None, None], [None, known]]

    def test_lone_reply_without_rank_counts_as_the_best(self, write_lines):
        line = tree(user("q", bot("a", None)))
        assert len(load("oasst", write_lines(line), {"top_k": 1}).conversations) == 1

    def test_lang_keeps_trees_by_their_root(self, write_lines):
        german = tree(user("de", bot("de-a"), lang="de"))
        rows = load("oasst", write_lines(GOOD, german), {"lang": ["de"]})
        assert [one.id for one in rows.prompts] == ["de"]
        assert rows.counts == {"lang": 1, "below_left_out": 2}

    def test_deleted_and_rejected_messages_go_with_all_below_them(self, write_lines):
        line = tree(
            user("q", bot("a", 0), bot("b", 1, user("c"), deleted=True)) | {"review_result": None}
        )
        other = tree(user("r", bot("s", None), bot("t", None, review_result=False)))
        rows = load("oasst", write_lines(line, other))
        assert [one.id for one in rows.conversations] == ["a", "s"]
        assert not rows.preferences
        assert rows.counts == {"deleted": 1, "rejected": 1, "below_left_out": 1}

    def test_unfinished_trees_are_left_out_and_waiting_prompts_kept(self, write_lines):
        waiting = tree(user("w"), tree_state="prompt_lottery_waiting")
        growing = tree(user("g", bot("h")), tree_state="growing")
        rows = load("oasst", write_lines(waiting, growing))
        assert [one.id for one in rows.prompts] == ["w"]
        assert rows.counts == {"tree_state": 1, "below_left_out": 1}

    def test_same_reply_twice_is_kept_once_at_its_better_rank(self, write_lines):
        line = tree(user("q", bot("a", 2, text="same"), bot("b", 0, text="same "), bot("c", 1)))
        rows = load("oasst", write_lines(line))
        assert rows.preferences[0].replies == ("same ", "text of c")
        assert rows.counts == {"duplicate_reply": 1}

    @pytest.mark.parametrize("text", ["x", "y" * 40])
    def test_only_one_text_is_no_preference(self, write_lines, text):
        line = tree(user("q", bot("a", 0, text=text), bot("b", 1, text=text)))
        rows = load("oasst", write_lines(line))
        assert not rows.preferences
        assert rows.counts == {"duplicate_reply": 1}


def without(message, key):
    return {name: value for name, value in message.items() if name != key}


# name → (faulty line, reason in the statistics, words of the message)
FAULTS = {
    "json": ('{"a": 1,}', "json", ["not JSON", ":2:9", "one JSON object on one line"]),
    "cut line": ('{"message_tree_id": "x', "json", ["not JSON", ":2:21"]),
    "not an object": ("[1, 2]", "not_an_object", ["holds a list", ":2"]),
    "no tree": ({"text": "x"}, "not_a_tree", ["no `prompt`", "another format"]),
    "role missing": (
        tree(user("q", without(bot("a"), "role"), bot("z", 0))),
        "role_missing",
        ["no role", ":2, message a", "prompter, assistant"],
    ),
    "role unknown": (
        tree(user("q", bot("a", 0, role="robot"), bot("z", 1))),
        "role_unknown",
        ["unknown role 'robot'", ":2, message a", "prompter, assistant"],
    ),
    "role no string": (
        tree(user("q", bot("a", 0, role=["x"]), bot("z", 1))),
        "role_unknown",
        ["unknown role ['x']"],
    ),
    "empty text": (
        tree(user("q", bot("a", 0, text=" \n"), bot("z", 1))),
        "text_empty",
        ["no text", ":2, message a", "`text`"],
    ),
    "text is no string": (
        tree(user("q", bot("a", 0) | {"text": 5}, bot("z", 1))),
        "text_empty",
        ["no text"],
    ),
    "half a surrogate": (
        tree(user("q", bot("a", 0, text="x\ud800"), bot("z", 1))),
        "text_surrogate",
        ["surrogate", ":2, message a"],
    ),
    "some ranks missing": (
        tree(user("q", bot("a", 0), bot("b"), bot("c", 2))),
        "rank_missing",
        ["no rank", "one of 3", ":2, message b"],
    ),
    "tie": (
        tree(user("q", bot("a", 0), bot("b", 1), bot("c", 1))),
        "rank_tied",
        ["2 replies", "share the rank 1", ":2, message b"],
    ),
    "rank no number": (
        tree(user("q", bot("a", "best"), bot("z", 1))),
        "rank_invalid",
        ["'best'", ":2, message a", "0 for the best"],
    ),
    "no assistant": (tree(user("q")), "no_assistant", ["No assistant", ":2, message q"]),
    "duplicate id": (
        tree(user("q", bot("a", 0), bot("good-a", 1))),
        "duplicate_id",
        ["occurs twice", ":2, message good-a"],
    ),
    "no id": (tree(user("q", bot("", 0), bot("z", 1))), "id_missing", ["no id", ":2"]),
    "same role": (
        tree(user("q", user("p"), bot("z"))),
        "role_repeated",
        ["role 'prompter' follow each other", ":2, message p"],
    ),
    "assistant answers itself": (
        tree(user("q", bot("a", None, bot("b")))),
        "role_repeated",
        ["role 'assistant' follow each other", ":2, message b"],
    ),
    "begins with the assistant": (
        tree(bot("a", None, user("q"), bot("z"))),
        "role_order",
        ["begins with the assistant", ":2, message a"],
    ),
    "replies no list": (
        tree(user("q", bot("a", 0) | {"replies": "x"}, bot("z", 1))),
        "replies_invalid",
        ["no list", ":2, message a"],
    ),
    "reply no object": (
        tree(user("q", "x", bot("z"))),
        "not_a_message",
        ["no object", ":2"],
    ),
    "too deep": ('{"prompt":' * 100_000, "nested", ["nested too deeply", ":2"]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_an_error_that_says_where(write_lines, name):
    line, _, words = FAULTS[name]
    path = write_lines(GOOD, line)
    with pytest.raises(DataError) as error:
        load("oasst", path)
    for word in [str(path), *words]:
        assert word in str(error.value)
    assert error.value.expected
    assert error.value.hint


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_dropped_and_counted(write_lines, name):
    line, reason, _ = FAULTS[name]
    rows = load("oasst", write_lines(GOOD, line), {"invalid": "drop"})
    assert rows.counts[reason] >= 1
    assert "good-a" in [one.id for one in rows.conversations]


def test_tied_and_unranked_replies_give_no_pairs(write_lines):
    line = tree(user("q", bot("a", 0), bot("b", 1), bot("c", 1), bot("d"), bot("e", 2)))
    tie = tree(user("r", bot("r0", 0), bot("r1", 0)))
    rows = load("oasst", write_lines(line, tie), {"invalid": "drop"})
    assert [one.replies for one in rows.preferences] == [("text of a", "text of e")]
    assert rows.counts == {"rank_tied": 4, "rank_missing": 1}
    kept = load("oasst", write_lines(line, tie), {"invalid": "drop", "top_k": 1})
    assert [one.id for one in kept.conversations] == ["a", "r0", "r1"]


def test_nothing_left_says_what_was_dropped(write_lines):
    path = write_lines(tree(user("q")), "{", tree(user("p")))
    with pytest.raises(DataError, match=r"3 were dropped \(json 1, no_assistant 2\)") as error:
        load("oasst", path, {"invalid": "drop"})
    assert str(path) in str(error.value)


class TestFile:
    """Faults of the whole file are errors, whatever `invalid` says."""

    @pytest.fixture(params=["error", "drop"])
    def options(self, request):
        return {"invalid": request.param}

    def test_absent(self, tmp_path, options):
        with pytest.raises(DataError, match="does not exist") as error:
            load("oasst", tmp_path / "no.jsonl", options)
        assert "no.jsonl" in str(error.value)

    @pytest.mark.parametrize("content", [b"", b"\n \n"])
    def test_empty(self, tmp_path, options, content):
        (tmp_path / "empty.jsonl").write_bytes(content)
        with pytest.raises(DataError, match="is empty"):
            load("oasst", tmp_path / "empty.jsonl", options)

    def test_not_utf8(self, tmp_path, options):
        path = tmp_path / "latin.jsonl"
        path.write_bytes(json.dumps(GOOD).encode() + b'\n{"text": "caf\xe9"}\n')
        with pytest.raises(DataError, match="not UTF-8: byte 0xe9") as error:
            load("oasst", path, options)
        assert "latin.jsonl:2, byte 14" in str(error.value)
        assert "iconv" in str(error.value)

    def test_gzip_cut_short_names_the_last_good_line(self, tmp_path, options):
        lines = [json.dumps(tree(user(f"q{i}", bot(f"a{i}")))) for i in range(3000)]
        whole = gzip.compress("\n".join(lines).encode())
        path = tmp_path / "cut.jsonl.gz"
        path.write_bytes(whole[: len(whole) // 2])
        seen = []
        with pytest.raises(DataError, match="cut short") as error:
            seen.extend(Source("oasst", path, options))
        last = int(str(error.value).split("line ")[1].split()[0])
        assert 0 < last < 3000
        assert seen[-1].id in (f"a{last - 1}", f"q{last - 1}")
        assert "gzip -t" in str(error.value)

    def test_damaged_gzip(self, tmp_path, options):
        whole = bytearray(gzip.compress(json.dumps(GOOD).encode()))
        whole[-6] ^= 0xFF  # the checksum
        (tmp_path / "bad.gz").write_bytes(whole)
        with pytest.raises(DataError, match="damaged"):
            load("oasst", tmp_path / "bad.gz", options)

    def test_gzip_and_byte_order_mark_are_read(self, tmp_path):
        line = json.dumps(GOOD, ensure_ascii=False)
        (tmp_path / "plain-name").write_bytes(gzip.compress(b"\xef\xbb\xbf" + line.encode()))
        assert len(load("oasst", tmp_path / "plain-name").preferences) == 1


class TestOptions:
    @pytest.mark.parametrize(
        ("name", "options", "words"),
        [
            ("oast", {}, ["datasets.<name>.format", "did you mean 'oasst'"]),
            ("oasst", {"topk": 1}, ["datasets.<name>.options", "did you mean 'top_k'"]),
            ("oasst", {"top_k": 0}, ["options.top_k", "1 or more"]),
            ("oasst", {"top_k": True}, ["options.top_k"]),
            ("oasst", {"lang": "en"}, ["options.lang", "a list, such as"]),
            ("oasst", {"invalid": "ignore"}, ["options.invalid", "drop, error"]),
            ("messages", {"top_k": 1}, ["'top_k'", "one of: column, content"]),
        ],
    )
    def test_wrong_option_names_its_key(self, write_lines, name, options, words):
        with pytest.raises(ConfigError) as error:
            load(name, write_lines(GOOD), options)
        for word in words:
            assert word in str(error.value)

    def test_a_format_is_a_small_class(self, write_lines, monkeypatch):
        class Pairs:
            reads = ("q",)

            def __init__(self, faults, greeting="Hi"):
                self.faults, self.greeting = faults, greeting

            def rows(self, record):
                from rlhf.data.rows import Message, Prompt

                message = Message("user", f"{self.greeting} {record['q']}")
                return [Prompt(str(self.faults.line), "group", (message,))]

        module = SimpleNamespace(Pairs=Pairs)
        monkeypatch.setitem(sys.modules, "rlhf.data.formats.pairs", module)
        monkeypatch.setitem(FORMATS, "pairs", ("pairs", "Pairs"))
        rows = load("pairs", write_lines({"q": "x"}), {"greeting": "Yo"})
        assert rows == Rows(prompts=rows.prompts)
        assert rows.prompts[0].history[0].content == "Yo x"


def turn(role, content="hello"):
    return {"role": role, "content": content}


class TestMessages:
    def test_views(self, write_lines):
        dialogue = [turn("system", "S"), turn("user", "U1"), turn("assistant", "A1")]
        path = write_lines(
            {"messages": [*dialogue, turn("user", "U2")], "id": "x"},
            {"messages": [turn("user", "only")]},
        )
        rows = load("messages", path)
        assert [(one.id, texts(one.messages)) for one in rows.conversations] == [
            ("x", ["S", "U1", "A1"])
        ]
        assert [(one.id, texts(one.history)) for one in rows.prompts] == [
            ("x/1", ["S", "U1"]),
            ("x/2", ["S", "U1", "A1", "U2"]),
            ("2/1", ["only"]),
        ]
        assert rows.prompts[0].group == rows.conversations[0].group

    @pytest.mark.parametrize(
        ("record", "reason", "words"),
        [
            ({}, "no_messages", ["no list of messages", ":2"]),
            ({"messages": []}, "no_messages", ["no list of messages"]),
            ({"messages": ["hi"]}, "no_messages", ["no list of messages"]),
            ({"messages": [turn("system")]}, "no_messages", ["Nobody"]),
            ({"messages": [{"content": "x"}]}, "role_missing", ["no role", ":2, message 1"]),
            ({"messages": [turn("human")]}, "role_unknown", ["'human'", "user, assistant"]),
            ({"messages": [turn("user", "")]}, "text_empty", ["no text", "`content`"]),
            ({"messages": [turn("assistant")]}, "role_order", ["out of turn", ", message 1"]),
            (
                {"messages": [turn("system"), turn("user"), turn("user")]},
                "role_repeated",
                ["'user' follow each other", ":2, message 3"],
            ),
            ({"messages": [turn("user"), turn("system")]}, "role_order", ["'system' is out"]),
        ],
    )
    def test_faults(self, write_lines, record, reason, words):
        path = write_lines({"messages": [turn("user"), turn("assistant")]}, record)
        with pytest.raises(DataError) as error:
            load("messages", path)
        for word in words:
            assert word in str(error.value)
        assert load("messages", path, {"invalid": "drop"}).counts == {reason: 1}
