"""Exact and near duplicates, and prompts that several parts of the data share."""

from __future__ import annotations

import random

import pytest

from rlhf.data.duplicates import (
    SLOTS,
    Method,
    Place,
    Prompts,
    bands,
    find,
    whole_text,
    word_sequences,
)
from rlhf.data.rows import Conversation, Message, Preference, Prompt
from rlhf.data.split import group_of

NEAR = Method(near=True, threshold=0.8, words=3)
EXACT = Method(near=False)
WORDS = [f"{noun}{i}" for noun in ("bread", "tree", "river", "stone") for i in range(150)]


def sentence(seed: int, length: int = 60) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(length))


def talk(id_: str, question: str, answer: str) -> Conversation:
    messages = (Message("user", question), Message("assistant", answer))
    return Conversation(id_, group_of(question), messages)


def found(rows, method, dataset="d"):
    texts = [
        row if not isinstance(row, Conversation) else whole_text(dataset, "train", row)
        for row in rows
    ]
    return {match.place.id: match for match in find(texts, method)}


@pytest.mark.parametrize("method", [NEAR, EXACT])
def test_case_and_white_space_do_not_tell_rows_apart(method):
    rows = [talk("a", "What is  it?", "A Tree."), talk("b", "what IS it?", "a\ntree.")]
    match = found(rows, method)["b"]
    assert (match.of, match.kind, match.similarity) == (Place("d", "train", "a"), "exact", 1.0)


def test_roles_and_borders_of_messages_do_tell_rows_apart():
    answered = talk("a", "one two", "three")
    assert not found([answered, talk("b", "one", "two three")], EXACT)
    history = (Message("user", "x"),)
    ranked = [Preference(name, "g", history, replies) for name, replies in
              (("a", ("y", "z")), ("b", ("z", "y")))]  # fmt: skip
    assert not list(find([whole_text("d", "train", row) for row in ranked], EXACT))


@pytest.mark.parametrize("method", [NEAR, EXACT])
def test_what_is_trained_tells_rows_apart(method):
    asked = Message("user", "one two three")
    rows = [
        Conversation(str(trained), "g", (asked, Message("assistant", "four", trained=trained)))
        for trained in (False, True)
    ]
    assert not found(rows, method)


def test_a_near_duplicate_is_found_by_near_alone():
    text = sentence(1)
    changed = text.replace(text.split()[30], "other")
    rows = [talk("a", "q1", text), talk("b", "q2", changed), talk("c", "q3", sentence(2))]
    assert not found(rows, EXACT)
    (match,) = found(rows, NEAR).values()
    assert (match.place.id, match.of.id, match.kind) == ("b", "a", "near")
    assert 0.8 <= match.similarity < 1
    assert not found(rows, Method(near=True, threshold=0.99, words=3))


def test_branches_of_one_tree_are_alike_by_nature():
    text = sentence(1)
    branches = [talk("a", "same question", text + " x1"), talk("b", "same question", text + " x2")]
    assert not found(branches, NEAR)
    copies = [branches[0], talk("c", "same question", text + " x1")]
    assert found(copies, NEAR)["c"].kind == "exact"
    other_set = [whole_text("e", "train", branches[1])]
    assert found([branches[0], *other_set], NEAR)["b"].kind == "near"


def test_the_first_of_several_stays_and_the_others_name_it():
    rows = [talk(str(i), f"q{i}", sentence(7) + f" end{i}") for i in range(6)]
    assert {match.of.id for match in found(rows, NEAR).values()} == {"0"}
    assert sorted(found(rows, NEAR)) == ["1", "2", "3", "4", "5"]


def test_texts_without_spaces_or_words():
    chinese = "今天天气很好我们去公园散步看花然后回家做饭吃面条再读一本有趣的书"
    rows = [talk("a", "甲", chinese * 2), talk("b", "乙", chinese * 2 + "啊")]
    assert found(rows, NEAR)["b"].kind == "near"
    assert not found([talk("a", "?", "!!!"), talk("b", "...", "???")], NEAR)
    assert word_sequences("one two", 3) == ["one two"]
    assert word_sequences("one two three four", 3) == ["one two three", "two three four"]
    assert word_sequences("!?", 3) == ["!?"]


def jaccard(left: str, right: str) -> float:
    a, b = (set(word_sequences(text, NEAR.words)) for text in (left, right))
    return len(a & b) / len(a | b)


def test_estimates_agree_with_true_similarities():
    """Of many pairs on both sides of the threshold few are judged wrongly, none grossly."""
    draw = random.Random(0)
    wrong = 0
    for i in range(300):
        words = sentence(i, 80).split()
        changed = [w if draw.random() > 0.03 else "new" + str(draw.randrange(999)) for w in words]
        left, right = " ".join(words), " ".join(changed)
        pair = [whole_text("d", "train", talk(str(n), f"{n}", text))
                for n, text in enumerate((left, right))]  # fmt: skip
        match = next(find(pair, NEAR), None)
        true = jaccard(*(text.content for text in pair))
        judged = match is not None
        if judged != (true >= NEAR.threshold):
            wrong += 1
            assert abs(true - NEAR.threshold) < 0.12
        if match:
            assert match.similarity == pytest.approx(true, abs=0.15)
    assert wrong < 60


def test_the_same_rows_give_the_same_answer_in_any_batches(monkeypatch):
    rows = [talk(str(i), f"q{i}", sentence(i % 9) + f" end{i}") for i in range(60)]
    expected = found(rows, NEAR)
    assert len(expected) == 51
    for size in (1, 7, 60):
        monkeypatch.setattr("rlhf.data.duplicates.BATCH", size)
        assert found(rows, NEAR) == expected


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.97, 1.0])
def test_bands_find_what_is_at_the_threshold(threshold):
    count = bands(threshold)
    slots = SLOTS // count
    assert slots * count == SLOTS
    assert slots == 1 or 1 - (1 - threshold**slots) ** count >= 0.99


class TestPrompts:
    def make(self) -> Prompts:
        prompts = Prompts()
        long = sentence(3, 40)
        asked = {
            ("conversation", "one", "train"): ["Why is the sky blue?", long],
            ("conversation", "two", "validation"): [long + " now", "How far is the moon?"],
            ("prompt", "one", "train"): ["why is the  sky BLUE?", "How far is the moon?"],
        }
        for (view, dataset, split), questions in asked.items():
            for i, question in enumerate(questions):
                row = talk(f"{i}", question, f"{view} {i}")
                if view == "prompt":
                    row = Prompt(row.id, row.group, row.messages[:1])
                prompts.add(view, dataset, split, row)
        return prompts

    def test_shared_between_stages_and_splits(self):
        parts = [("conversation", "train"), ("conversation", "validation"), ("prompt", "train")]
        train, held, ppo = parts
        exact, near = self.make().shared(EXACT), self.make().shared(NEAR)
        assert exact[train] == {train: 2, held: 0, ppo: 1}
        assert exact[held] == {train: 0, held: 2, ppo: 1}
        assert near[train] == {train: 2, held: 1, ppo: 1}
        assert near[ppo][ppo] == 2

    def test_held_out(self):
        moon, sky = group_of("How far is the moon?"), group_of("why is the sky blue?")
        long = sentence(3, 40)
        assert self.make().held_out(EXACT) == {moon, group_of(long + " now")}
        assert self.make().held_out(NEAR) == {moon, group_of(long + " now"), group_of(long)}
        assert sky not in self.make().held_out(NEAR)
