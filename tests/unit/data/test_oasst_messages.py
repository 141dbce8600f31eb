"""Open-Assistant's messages one by one: put together, and each one used or counted."""

from __future__ import annotations

import json
import math

import pytest
from support.oasst_trees import bot, tree, user

from rlhf.data.formats.source import Source, load
from rlhf.data.rows import Conversation, Preference
from rlhf.errors import DataError

VIEWS = ("conversations", "preferences", "prompts")


def single(message, parent=None):
    """The messages of a tree, one by one."""
    yield {**message, "parent_id": parent, "replies": []}
    for reply in message["replies"]:
        yield from single(reply, message["message_id"])


def answered(message, parent=None):
    """A message that holds its replies, as Open-Assistant writes samples of messages."""
    replies = [answered(one, message["message_id"]) for one in message["replies"]]
    return {**message, "parent_id": parent, "replies": replies}


TREE = user("q", bot("a", 1, user("q2", bot("a2"))), bot("b", 0))
OTHER = user("r", bot("s"))


def same(found, wanted):
    for view in VIEWS:
        assert sorted(getattr(found, view), key=str) == sorted(getattr(wanted, view), key=str)


class TestReplies:
    def test_messages_that_hold_their_replies_are_trees(self, write_lines):
        wanted = load("oasst", write_lines(tree(TREE), tree(OTHER)))
        same(load("oasst", write_lines(answered(TREE), answered(OTHER))), wanted)

    def test_replies_in_a_message_and_in_rows(self, write_lines):
        root = {**answered(TREE), "replies": [answered(TREE["replies"][0], "q")]}
        rows = [root, {**bot("b", 0), "parent_id": "q"}]
        same(load("oasst", write_lines(*rows)), load("oasst", write_lines(tree(TREE))))

    def test_a_reply_that_is_a_row_as_well_is_there_once(self, write_lines):
        found = load("oasst", write_lines(answered(TREE), *list(single(TREE))[1:]))
        same(found, load("oasst", write_lines(tree(TREE))))
        assert found.counts == {"message_repeated": 4}

    def test_the_same_id_with_another_text_is_a_fault(self, write_lines):
        path = write_lines(answered(OTHER), {**bot("s", text="other"), "parent_id": "r"})
        with pytest.raises(DataError, match="occurs twice"):
            load("oasst", path)


class TestValues:
    @pytest.mark.parametrize(("zero", "one"), [(0.0, 1.0), ("0", "1")])
    def test_ranks(self, write_lines, zero, one):
        line = tree(user("q", bot("a", one), bot("b", zero)))
        (pair,) = load("oasst", write_lines(line)).preferences
        assert pair.replies == ("text of b", "text of a")

    @pytest.mark.parametrize("rank", [math.nan, None, ""])
    def test_no_rank(self, write_lines, rank):
        line = tree(user("q", bot("a", rank)))
        assert len(load("oasst", write_lines(line), {"top_k": 1}).conversations) == 1

    def test_what_pandas_and_csv_make_of_it(self, write_lines):
        columns = {"deleted": "False", "review_result": 1.0, "synthetic": math.nan}
        columns["tree_state"] = math.nan
        first, *others = single(TREE)
        rows = [{**first, **columns, "parent_id": math.nan}]
        rows += [{**one, **columns, "review_result": math.nan} for one in others]
        same(load("oasst", write_lines(*rows)), load("oasst", write_lines(tree(TREE))))

    @pytest.mark.parametrize(
        ("marks", "reason"),
        [
            ({"deleted": "True"}, "deleted"),
            ({"deleted": 1.0}, "deleted"),
            ({"review_result": 0.0}, "rejected"),
            ({"review_result": "False"}, "rejected"),
        ],
    )
    def test_marks_that_leave_a_message_out(self, write_lines, marks, reason):
        rows = load("oasst", write_lines(tree(user("q", bot("a", 0), bot("b", 1, **marks)))))
        assert [one.id for one in rows.conversations] == ["a"]
        assert rows.counts == {reason: 1}

    def test_keys_that_nobody_reads_are_named(self, write_lines):
        line = tree(user("q", bot("a", 0, emojis={"+1": 2}, model_name=None), labels="{'spam': 0}"))
        source = Source("oasst", write_lines(line))
        assert list(source)
        named = {one for one in source.faults.unread if "[]" in one}
        assert named == {"messages[].emojis", "messages[].labels"}


class TestPlaces:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"rank": 0.5}, "rank 0.5"),
            ({"role": "robot"}, "'robot'"),
            ({"text": ""}, "no text"),
            ({"rank": None}, "no rank"),
            ({"deleted": "?"}, "deleted"),
        ],
    )
    def test_the_line_of_a_fault_is_that_of_the_message(self, write_lines, change, words):
        rows = list(single(TREE))
        rows[-1] |= change
        with pytest.raises(DataError, match=words) as error:
            load("oasst", write_lines(*rows, *single(OTHER)))
        assert "data.jsonl:5, message b" in str(error.value)


HANGING = [
    {**user("self"), "parent_id": "self"},
    {**bot("under-self"), "parent_id": "self"},
    {**bot("x"), "parent_id": "y"},
    {**user("y"), "parent_id": "x"},
    {**bot("lost"), "parent_id": "gone"},
    {**user("under-lost"), "parent_id": "lost"},
    {**bot("deeper", None, user("inner")), "parent_id": "under-lost"},
]


class TestHangingOnNothing:
    @pytest.mark.parametrize("order", [1, -1])
    def test_each_message_is_counted(self, write_lines, order):
        rows = [*single(TREE), *HANGING][::order]
        found = load("oasst", write_lines(*rows), {"invalid": "drop"})
        same(found, load("oasst", write_lines(tree(TREE))))
        assert found.counts == {"parent_circle": 4, "parent_missing": 1, "below_left_out": 3}

    @pytest.mark.parametrize("message", [HANGING[0], HANGING[4]])
    def test_it_is_a_fault(self, write_lines, message):
        with pytest.raises(DataError) as error:
            load("oasst", write_lines(*single(TREE), message))
        assert f"data.jsonl:6, message {message['message_id']}" in str(error.value)


def test_a_long_chain_is_a_fault_and_not_the_end(write_lines):
    chain = [{**user("m0"), "parent_id": None}]
    for i in range(1, 3001):
        message = (user if i % 2 == 0 else bot)(f"m{i}")
        chain.append({**message, "parent_id": f"m{i - 1}"})
    rows = load("oasst", write_lines(*chain, *single(OTHER)), {"invalid": "drop"})
    assert [one.id for one in rows.conversations] == ["s"]
    assert rows.counts["nested"] == 1


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("top_k", [None, 1])
def test_each_message_is_used_or_counted(tmp_path, nested, top_k):
    deep = user("d", bot("d0", 0), bot("d1", 1, user("d2", bot("d3", 0), bot("d4", 1)),
                                       user("d5", bot("d6", 0))))  # fmt: skip
    gone = user("g", bot("g0", 0, user("g1", bot("g2")), deleted=True), bot("g3", 1))
    bad = user("b", bot("b0", 0, text=" "), bot("b1", 1, user("b2", role="robot"), text="fine"))
    french = user("f", bot("f0", 0, user("f1")), lang="fr")
    silent = user("n")
    lone = user("l", bot("l0", 3, user("l1", bot("l2"))))
    trees = [TREE, deep, gone, bad, french, silent, lone]
    if nested:
        rows = [answered(one) for one in trees]
    else:
        rows = [message for one in trees for message in single(one)]
    rows += HANGING
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    options = {"invalid": "drop", "lang": ["en"], "top_k": top_k}
    source = Source("oasst", path, options)
    used = set()
    for row in source:
        messages = row.messages if isinstance(row, Conversation) else row.history
        used |= {one.content for one in messages}
        used |= set(row.replies) if isinstance(row, Preference) else set()
    total = sum(1 for one in trees for _ in single(one)) + len(HANGING) + 1
    assert len(used) + (source.faults.dropped + source.faults.filtered).total() == total
    assert (source.faults.filtered["top_k"] > 0) == (top_k is not None)
