"""Rows, their files, and the split that they are in."""

from __future__ import annotations

import filecmp
import random

import pytest
from support.oasst_trees import bot, tree, user
from support.written import write_rows

from rlhf.data.formats.source import load
from rlhf.data.rows import (
    VIEWS,
    Conversation,
    Feedback,
    Message,
    Preference,
    Prompt,
    Properties,
    Rows,
)
from rlhf.data.rows_file import ROW_GROUP, find_prompts, read_all, read_rows
from rlhf.data.split import group_of, split_of
from rlhf.errors import DataError, IntegrityError

USER, REPLY = Message("user", "q\n "), Message("assistant", "ä\x00🙂")
KNOWN = Properties("en", quality=0.7, context="a\nb")
RATED = Message("assistant", "a", KNOWN)
ROWS = [
    (Conversation("c", "g", (Message("system", "s"), USER, REPLY)), "train"),
    (Preference("p", "g", (USER,), ("best", "worse", "worst")), "validation"),
    (Preference("q", "g", (USER, RATED, USER), ("1", "0"), (KNOWN, None)), "train"),
    (Prompt("r", "g", (USER, REPLY, USER)), "train"),
    (Feedback("s", "g", (USER, RATED, USER), "yes", True, KNOWN), "train"),
    (Feedback("s2", "g", (USER,), "no\n", False), "validation"),
    (Conversation("t", "g", (Message("text", "plain"),)), "train"),
    (
        Conversation("u", "g", (USER, Message("assistant", "no", trained=False), USER, REPLY)),
        "train",
    ),
]

NO = ROWS[5][0]


def test_rows_come_back_as_they_were(tmp_path):
    write_rows(tmp_path, ROWS)
    everything = read_all(tmp_path)
    found = [*everything.conversations, *everything.preferences, *everything.prompts]
    found += everything.feedbacks
    assert sorted(found, key=lambda row: row.id) == [row for row, _ in ROWS]
    assert read_all(tmp_path, "validation") == Rows(preferences=[ROWS[1][0]], feedbacks=[NO])


def test_equal_rows_give_equal_bytes(tmp_path):
    many = [(Prompt(str(i), "g", (USER,)), "train") for i in range(2 * ROW_GROUP + 7)]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name, ROWS + many)
    files = [f"{view}.parquet" for view in VIEWS]
    assert filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", files, shallow=False)[0] == files
    assert len(list(read_rows(tmp_path / "a", "prompt"))) == len(many) + 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: Conversation("x", "g", (USER,)),
        lambda: Conversation("x", "g", ()),
        lambda: Conversation("x", "g", (Message("text", "a"), REPLY)),
        lambda: Prompt("x", "g", (Message("text", "a"),)),
        lambda: Prompt("x", "g", (USER, REPLY)),
        lambda: Prompt("x", "g", (REPLY, USER)),
        lambda: Prompt("x", "g", (USER, USER)),
        lambda: Preference("x", "g", (USER,), ("alone",)),
        lambda: Feedback("x", "g", (USER, REPLY), "again", True),
        lambda: Preference("x", "g", (USER,), ("1", "2"), (KNOWN,)),
    ],
)
def test_impossible_rows_cannot_be_made(make):
    with pytest.raises(DataError, match="row x"):
        make()


@pytest.mark.parametrize("name", ["quality", "humor", "creativity"])
@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_ratings_are_from_0_to_1(name, value):
    with pytest.raises(DataError, match=f"The {name} of a reply is {value}"):
        Properties(**{name: value})


def test_damaged_rows_are_refused(tmp_path):
    with pytest.raises(IntegrityError, match="cannot be read"):
        list(read_rows(tmp_path, "prompt"))
    (tmp_path / "prompt.parquet").write_bytes(b"no parquet")
    with pytest.raises(IntegrityError, match=r"prompt\.parquet"):
        list(read_rows(tmp_path, "prompt"))


def test_prompts_are_found_by_id_in_both_splits(tmp_path):
    third = Prompt("s", "g", (Message("user", "another"),))
    write_rows(tmp_path, [*ROWS, (third, "validation"), (Prompt("t", "g", (USER,)), "train")])
    assert find_prompts(tmp_path, {"r", "s"}) == {"r": ROWS[3][0], "s": third}
    assert find_prompts(tmp_path, set()) == {}
    with pytest.raises(IntegrityError, match="no prompt 'p'"):  # an id of another view
        find_prompts(tmp_path, {"r", "p"})


def test_group_ignores_case_and_white_space():
    assert group_of("What is\n a  Tree? ") == group_of("what IS a tree?")
    assert group_of("What is a tree?") != group_of("What is a tree")


def test_share_and_stability_of_the_split():
    groups = [group_of(str(i)) for i in range(4000)]
    held_out = [split_of(group, 0.1) == "validation" for group in groups]
    assert 0.08 < sum(held_out) / len(groups) < 0.12
    assert held_out == [split_of(group, 0.1) == "validation" for group in groups]
    assert held_out != [split_of(group, 0.1, "other") == "validation" for group in groups]
    # A larger share keeps what was held out before.
    larger = [split_of(group, 0.2) == "validation" for group in groups]
    assert all(more for less, more in zip(held_out, larger, strict=True) if less)


def test_no_root_prompt_is_in_two_splits(write_lines):
    draw = random.Random(0)
    lines = []
    for i in range(300):
        text = f"Question {draw.randrange(100)}"
        text = draw.choice([text, text.upper(), f" {text} ", text.replace(" ", "\n")])
        replies = [bot(f"a{i}", 0, user(f"r{i}", bot(f"s{i}"))), bot(f"b{i}", 1)]
        lines.append(tree(user(f"q{i}", *replies, text=text)))
    rows = load("oasst", write_lines(*lines))
    splits: dict[str, set[str]] = {}
    for row in [*rows.conversations, *rows.preferences, *rows.prompts]:
        messages = row.messages if isinstance(row, Conversation) else row.history
        root = " ".join(messages[0].content.casefold().split())
        splits.setdefault(root, set()).add(split_of(row.group, 0.3))
    assert len(splits) > 80
    assert all(len(one) == 1 for one in splits.values())
    assert set.union(*splits.values()) == {"train", "validation"}
