"""Formats of replies that are compared: ranks, scores, labels, choices; and what all share."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import pytest
from support.bad_inputs import GOOD
from support.read_rows import bot, counted, gpt, human, said, system, user

from rlhf.data.formats.faults import Faults
from rlhf.data.formats.source import class_of
from rlhf.errors import DataError


class Spy(dict):
    """A row that remembers which of its columns are looked at."""

    def __init__(self, columns):
        super().__init__(columns)
        self.seen = set()

    def __contains__(self, key):
        self.seen.add(key)
        return super().__contains__(key)

    def __getitem__(self, key):
        self.seen.add(key)
        return super().__getitem__(key)

    def get(self, key, default=None):
        self.seen.add(key)
        return super().get(key, default)


@pytest.mark.parametrize(
    ("name", "record", "options"),
    [(name, GOOD[name][1], GOOD[name][0]) for name in
     ("choices", "comparison", "hh", "labelled", "preference", "ranked", "scored", "transcript")]
    + [
        ("preference", {"a": {"b": "p"}, "x.y": "c", "z": ["d"]},
         {"prompt": "a.b", "chosen": "x.y", "rejected": "z.0"}),
        ("labelled", {"q": "p", "r": "a", "tag": 1},
         {"prompt": "{q}{more.text?}", "completion": "r", "label": "tag"}),
        ("scored", {"prompt": "p", "response": "a", "h": 1, "c": {"d": 2}},
         {"scores": {"h": 1.0, "c.d": 2.0}}),
        ("choices", {"ctx": "c", "o": {"t": ["x", "y"], "k": ["A", "B"]}, "label": "A"},
         {"choices": "o.t", "keys": "o.k"}),
        ("ranked", {"prompt": "p", "replies": ["a"], "worse": ["b"]}, {"worst": "worse"}),
        ("transcript", {"text": "Human: a", "more": {"reply": "b"}}, {"reply": "more.reply"}),
    ],
)  # fmt: skip
def test_columns_that_may_be_read_are_named(name, record, options):
    faults = Faults("file")
    form = class_of(name)(faults, **options)
    row = Spy({**record, "other": "x"})
    assert [*form.rows(row), *getattr(form, "finish", list)()]
    assert row.seen <= set(form.reads)
    assert set(record) <= set(form.reads)
    assert "other" not in form.reads


ODD = [
    None, "", " ", "x", "Human: a", "\n\nHuman: a\n\nAssistant: b", "Human:", "Assistant:", "1",
    "nan", 0, 1, -1, 2.5, 1e999, float("nan"), 10**400, True, False, [], {}, ["x"], ["x", "y"],
    [None], [[]], [["x"]], {"a": 1}, user("x"), bot("y"), [user("x")], [bot("y")],
    [user("x"), bot("y")], [user("x"), bot("z")], [system("s"), bot("y")], [user("x"), "y"],
    [bot(["a", {"text": "b"}])], [bot([{"type": "image"}])], [{"role": 3, "content": 4}],
    {"role": None}, {"from": []}, "\ud800",
]  # fmt: skip


# format → other options, and what a good row holds then
OTHERWISE = {
    "choices": ({"keys": "keys", "wrong": "all"}, {"keys": ["A", "B"], "label": "A"}),
    "comparison": ({"scores": None, "choice": "label", "merge": True}, {"label": 0}),
    "hh": ({"speakers": ["Human", "Bot"]}, {"chosen": "Human: a\n\nBot: b",
                                            "rejected": "Human: a\n\nBot: c"}),
    "labelled": ({"pairs": True, "prompt": None}, {"completion": [user("x"), bot("y")]}),
    "preference": ({"prompt": None}, {"chosen": [user("x"), bot("y")],
                                      "rejected": [user("x"), bot("z")]}),
    "ranked": ({"text": "t", "score": "s", "worst": "w"},
               {"replies": [{"t": "b", "s": 1}, {"t": "c", "s": 2}], "w": ["d"]}),
    "scored": ({"scores": {"a": 0.5, "score": 2.0}, "min_score": 1.0}, {"a": 1}),
    "transcript": ({"reply": "reply", "inline": False}, {"reply": "b"}),
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["choices", "comparison", "hh", "labelled", "preference", "ranked", "scored", "transcript"],
)
@pytest.mark.parametrize("more", [False, True])
def test_whatever_a_row_holds_it_is_used_held_or_counted(name, more):
    options, good = GOOD[name]
    if more:
        options, good = {**options, **OTHERWISE[name][0]}, {**good, **OTHERWISE[name][1]}
    draw = random.Random(name)
    faults = Faults("file", drop=True)
    form = class_of(name)(faults, **options)
    used = 0
    for line in range(1500):
        faults.line = line
        row = {
            key: draw.choice(ODD) if draw.random() < 0.4 else value
            for key, value in {**good, "system": ""}.items()
            if draw.random() < 0.95
        }
        before = faults.dropped.total() + faults.filtered.total()
        made = form.rows(row)
        used += bool(made)
        if not made and not hasattr(form, "finish"):
            assert faults.dropped.total() + faults.filtered.total() > before, row
    if hasattr(form, "finish"):
        used += len(list(form.finish()))
    assert used
    assert faults.dropped.total() > 100


class TestRanked:
    def test_in_the_order_of_the_list(self, rows_of):
        record = {"prompt": "p", "replies": ["a", "b", "a ", "c"]}
        rows = rows_of("ranked", record)
        assert rows.preferences[0].replies == ("a", "b", "c")
        assert counted(rows) == {"duplicate_reply": 1}

    def test_by_rank_and_by_score_with_ties_dropped(self, rows_of):
        replies = [{"t": "a", "n": 2}, {"t": "b", "n": 1.5}, {"t": "c", "n": "2"}]
        record = {"prompt": "p", "replies": replies}
        by_rank = rows_of("ranked", record, text="t", rank="n")
        by_score = rows_of("ranked", record, text="t", score="n")
        assert by_rank.preferences[0].replies == ("b", "a")
        assert by_score.preferences[0].replies == ("a", "b")
        assert counted(by_rank) == counted(by_score) == {"tie": 1}

    def test_missing_ranks_are_dropped_with_their_row(self, rows_of):
        good = {"prompt": "p", "replies": [{"t": "a", "n": 0}, {"t": "b", "n": 1}]}
        bad = {"prompt": "q", "replies": [{"t": "a", "n": None}, {"t": "b"}]}
        rows = rows_of("ranked", good, bad, text="t", rank="n", invalid="drop")
        assert len(rows.preferences) == 1
        assert counted(rows) == {"rank_missing": 1}

    def test_a_single_reply_is_a_demonstration(self, rows_of):
        rows = rows_of("ranked", {"prompt": "p", "replies": ["a"]})
        assert not rows.preferences
        assert said(rows.conversations[0]) == [("u", "p"), ("a", "a")]

    def test_worse_replies_come_last_and_none_is_needed(self, rows_of):
        first = {"prompt": ["p"], "replies": ["a", "b"], "worse": ["w1", "w2", "w3"]}
        second = {"prompt": ["p"], "replies": ["a", "b"], "worse": []}
        rows = rows_of("ranked", first, second, worst="worse")
        assert rows.preferences[0].replies[:2] == ("a", "b")
        assert rows.preferences[0].replies[2] in first["worse"]
        assert rows.preferences[1].replies == ("a", "b")

    def test_dialogues_and_messages(self, rows_of):
        head = [system("s"), user("p")]
        lists = {"replies": [[*head, bot("a")], [*head, bot("b")]]}
        single = {"prompt": head, "replies": [bot("a"), bot("b")]}
        pairs = {"prompt": [human("p")], "system": "s", "replies": [gpt("a"), gpt("b")]}
        for record in (lists, single, pairs):
            (row,) = rows_of("ranked", record).preferences
            assert said(row) == [("s", "s"), ("u", "p")]
            assert row.replies == ("a", "b")

    def test_objects_that_hold_dialogues(self, read):
        replies = [{"d": [user("p"), bot(text)], "s": i, "by": "m"} for i, text in enumerate("abc")]
        faults, rows = read("ranked", {"replies": replies}, text="d", score="s")
        assert rows[1].replies == ("c", "b", "a")
        assert faults.unread == {"replies[].by": 1}

    def test_dialogues_that_part_from_the_best_are_left_out(self, rows_of):
        replies = [
            {"d": [user(asked), bot(text)], "s": score}
            for asked, text, score in (("p", "a", 1), ("q", "b", 3), ("q", "c", 2), ("p", "d", 0))
        ]
        rows = rows_of("ranked", {"replies": replies}, text="d", score="s")
        assert said(rows.preferences[0]) == [("u", "q")]
        assert rows.preferences[0].replies == ("b", "c")
        assert counted(rows) == {"history_differs": 2}

    def test_ranks_as_pandas_writes_them(self, rows_of):
        replies = [{"t": "a", "n": 1.0}, {"t": "b", "n": 0.0}, {"t": "c", "n": "2.0"}]
        rows = rows_of("ranked", {"prompt": "p", "replies": replies}, text="t", rank="n")
        assert rows.preferences[0].replies == ("b", "a", "c")

    def test_numbers_that_floats_cannot_tell_apart(self, rows_of):
        replies = [{"t": "a", "n": 2**60}, {"t": "b", "n": 2**60 + 1}]
        rows = rows_of("ranked", {"prompt": "p", "replies": replies}, text="t", score="n")
        assert rows.preferences[0].replies == ("b", "a")

    @pytest.mark.parametrize("rank", ["inf", "-Infinity", "1_0", True, [1], "1e999"])
    def test_ranks_that_are_no_numbers(self, rows_of, rank):
        replies = [{"t": "a", "n": 0}, {"t": "b", "n": rank}]
        with pytest.raises(DataError, match="The rank of a reply"):
            rows_of("ranked", {"prompt": "p", "replies": replies}, text="t", rank="n")

    @pytest.mark.parametrize("worse", ["x", [3], {"a": "b"}])
    def test_worse_replies_that_are_none(self, rows_of, worse):
        record = {"prompt": "p", "replies": ["a"], "worse": worse}
        with pytest.raises(DataError, match="Column `worse` holds"):
            rows_of("ranked", record, worst="worse")

    def test_worse_replies_by_path(self, rows_of):
        record = {"prompt": "p", "replies": ["a"], "more": {"worse": ["b"]}}
        rows = rows_of("ranked", record, {"prompt": "q", "replies": ["a"]}, worst="more.worse")
        assert [one.replies for one in rows.preferences] == [("a", "b")]


def scored(pairs, **more):
    keys = ("prompt", "answer_0", "answer_1", "s0", "s1")
    return [{**dict(zip(keys, pair, strict=True)), **more} for pair in pairs]


class TestMerged:
    """`merge` against a count of its own."""

    def drawn(self, seed):
        draw = random.Random(seed)
        for _ in range(300):
            first, second = draw.sample("abcdefg", 2) if draw.random() < 0.95 else ("a", "a")
            yield draw.choice("pqr"), first, second

    @pytest.mark.parametrize("seed", range(3))
    def test_by_the_best_score_that_a_reply_has(self, rows_of, seed):
        draw = random.Random(seed)
        pairs = [(*one, draw.randrange(200), draw.randrange(200)) for one in self.drawn(seed)]
        best = defaultdict(dict)
        for prompt, a, b, x, y in pairs:
            for text, score in ((a, x), (b, y)):
                best[prompt][text] = max(score, best[prompt].get(text, -1))
        rows = rows_of("comparison", *scored(pairs), scores=["s0", "s1"], merge=True)
        assert len(rows.preferences) == 3
        for row in rows.preferences:
            known = best[row.history[0].content]
            assert [known[one] for one in row.replies] == sorted(set(known.values()), reverse=True)
        lost = sum(map(len, best.values())) - sum(len(one.replies) for one in rows.preferences)
        assert counted(rows) == ({"tie": lost} if lost else {})

    @pytest.mark.parametrize("seed", range(3))
    def test_by_the_number_of_wins(self, rows_of, seed):
        draw = random.Random(seed)
        labels = ["a", "b", "tie", None, ""]
        rounds = [(*one, draw.choices(labels, [5, 5, 2, 1, 1])[0]) for one in self.drawn(seed)]
        wins, seen = defaultdict(Counter), Counter()
        for prompt, a, b, label in rounds:
            if not label:
                seen["unlabelled"] += 1
            elif label == "tie":
                seen["tie"] += 1
            elif a == b:
                seen["duplicate_reply"] += 1
            else:
                wins[prompt].update({a: label == "a", b: label == "b"})
        records = [
            {"prompt": prompt, "answer_0": a, "answer_1": b, "won": label}
            for prompt, a, b, label in rounds
        ]
        rows = rows_of("comparison", *records, choice="won", wins=["a", "b"], merge=True)
        for row in rows.preferences:
            known = wins[row.history[0].content]
            assert [known[one] for one in row.replies] == sorted(set(known.values()), reverse=True)
        seen["tie"] += sum(map(len, wins.values())) - sum(
            len(one.replies) for one in rows.preferences
        )
        assert counted(rows) == seen
        assert seen["unlabelled"] > 5
        assert seen["duplicate_reply"] > 5

    def test_a_later_lower_score_does_not_count(self, rows_of):
        records = scored([("p", "a", "b", 9, 5), ("p", "a", "c", 1, 7)])
        rows = rows_of("comparison", *records, scores=["s0", "s1"], merge=True)
        assert rows.preferences[0].replies == ("a", "c", "b")


class TestComparedDialogues:
    def test_histories_come_from_the_dialogues(self, rows_of):
        record = {
            "conversation_a": [user("p"), bot("a")],
            "conversation_b": [user("p"), bot("b")],
            "winner": "model_b",
        }
        parted = {**record, "conversation_b": [user("p"), bot("x"), user("q"), bot("b")]}
        options = {"replies": ["conversation_a", "conversation_b"], "choice": "winner"}
        for merge in (False, True):
            rows = rows_of("comparison", record, parted, **options, wins=["model_a", "model_b"],
                           merge=merge)  # fmt: skip
            assert [one.replies for one in rows.preferences] == [("b", "a")]
            assert sorted(len(one.messages) for one in rows.conversations) == [2, 4]
            assert counted(rows) == {"history_differs": 1}

    def test_what_is_removed_is_removed_from_messages_too(self, rows_of):
        record = {
            "prompt": "p [1]",
            "answer_0": bot("a [1]."),
            "answer_1": "b [2].",
            "s0": 1,
            "s1": 0,
        }
        rows = rows_of("comparison", record, scores=["s0", "s1"], remove=r" \[\d\]")
        assert rows.preferences[0].replies == ("a.", "b.")
        assert said(rows.prompts[0]) == [("u", "p [1]")]

    def test_wordings_go_around_one_text_only(self, rows_of):
        record = {"answer_0": [user("p"), bot("a")], "answer_1": [user("p"), bot("b")], "s0": 1,
                  "s1": 0}  # fmt: skip
        for bad in ({**record, "prompt": "p"}, record, {**GOOD["comparison"][1], "prompt": ["p"]}):
            with pytest.raises(DataError, match=r"which `options.prompts` are put around"):
                rows_of("comparison", bad, scores=["s0", "s1"], prompts=["Sum up: {}"])


class TestComparisons:
    def compare(self, rows_of, *pairs, **options):
        records = [
            {"prompt": prompt, "answer_0": a, "answer_1": b, "s0": x, "s1": y}
            for prompt, a, b, x, y in pairs
        ]
        return rows_of("comparison", *records, scores=["s0", "s1"], **options)

    def test_the_higher_score_is_better_whether_number_or_text(self, rows_of):
        rows = self.compare(rows_of, ("p", "a", "b", -1, 0.5), ("q", "a", "b", "10", "9"))
        assert [one.replies for one in rows.preferences] == [("b", "a"), ("a", "b")]

    def test_ties_are_dropped_and_counted(self, rows_of):
        rows = self.compare(rows_of, ("p", "a", "b", 0, 0.0), ("q", "a", "b", 1, 0))
        assert len(rows.preferences) == len(rows.prompts) == 1
        assert counted(rows) == {"tie": 1}

    def test_equal_replies_are_dropped_and_counted(self, rows_of):
        rows = self.compare(rows_of, ("p", "a", " a", 1, 0), ("q", "a", "b", 1, 0))
        assert len(rows.preferences) == 1
        assert counted(rows) == {"duplicate_reply": 1}

    def test_merged_by_score(self, rows_of):
        rows = self.compare(
            rows_of,
            ("p", "a", "b", 1, 5),
            ("q", "x", "y", 1, 0),
            ("p", "c", "a", 9, 1),
            ("p", "d", "a", 5, 1),
            merge=True,
        )
        assert [one.replies for one in rows.preferences] == [("c", "b", "a"), ("x", "y")]
        assert [one.id for one in rows.preferences] == ["1", "2"]
        assert counted(rows) == {"tie": 1}

    def test_merged_by_wins(self, rows_of):
        pairs = [("a", "b", 1), ("b", "c", 0), ("a", "c", 0), ("c", "b", 1), ("b", "a", 0)]
        records = [{"prompt": "p", "answer_0": a, "answer_1": b, "choice": c} for a, b, c in pairs]
        rows = rows_of("comparison", *records, choice="choice", merge=True)
        assert rows.preferences[0].replies == ("b", "a", "c")

    @pytest.mark.parametrize(("label", "replies"), [(1, ("a", "b")), (0, ("b", "a"))])
    def test_labels(self, rows_of, label, replies):
        record = {"prompt": "p", "answer_0": "a", "answer_1": "b", "labels": label}
        rows = rows_of("comparison", record, choice="labels", wins=[1, 0])
        assert rows.preferences[0].replies == replies

    @pytest.mark.parametrize(
        ("wins", "label"),
        [([0, 1], "1"), ([0, 1], 1.0), ([0, 1], " 1.0"), (["0", "1"], 1), ([True, False], False),
         (["A", "B"], "B "), ([-1, 1], 1)],
    )  # fmt: skip
    def test_labels_as_files_of_other_kinds_have_them(self, rows_of, wins, label):
        record = {"prompt": "p", "answer_0": "a", "answer_1": "b", "label": label}
        rows = rows_of("comparison", record, choice="label", wins=wins)
        assert rows.preferences[0].replies == ("b", "a")

    @pytest.mark.parametrize("label", [None, "", " ", float("nan")])
    @pytest.mark.parametrize("merge", [False, True])
    def test_rows_without_a_label(self, rows_of, label, merge):
        good = {"prompt": "p", "answer_0": "a", "answer_1": "b", "label": 0}
        bad = {**good, "answer_0": "c", "label": label}
        rows = rows_of("comparison", good, bad, choice="label", merge=merge)
        assert [one.replies for one in rows.preferences] == [("a", "b")]
        assert counted(rows) == {"unlabelled": 1}

    def test_labels_that_say_how_much(self, rows_of):
        records = [
            {"prompt": "p", "answer_0": "a", "answer_1": "b", "strength": one}
            for one in (-3, "2", 0, 1.0)
        ]
        rows = rows_of("comparison", *records, choice="strength", ties=[0],
                       wins=[[-1, -2, -3], [1, 2, 3]])  # fmt: skip
        assert [one.replies[0] for one in rows.preferences] == ["a", "b", "b"]
        assert counted(rows) == {"tie": 1}
        with pytest.raises(DataError, match="-3 or 1 or 2"):
            rows_of("comparison", {**records[0], "strength": 4}, choice="strength",
                    wins=[[-3], [1, 2]])  # fmt: skip

    def test_other_labels_that_prefer_neither(self, rows_of):
        records = [
            {"prompt": "p", "answer_0": "a", "answer_1": "b", "label": one} for one in (1, 0, 0.5)
        ]
        rows = rows_of("comparison", *records, choice="label", wins=[1, -1], ties=[0, "0.5"])
        assert len(rows.preferences) == 1
        assert counted(rows) == {"tie": 2}

    def test_labels_that_say_tie(self, rows_of):
        records = [
            {"prompt": "p", "answer_0": "a", "answer_1": "b", "winner": winner}
            for winner in ("model_b", "tie", "tie (bothbad)", None)
        ]
        rows = rows_of("comparison", *records, choice="winner", wins=["model_a", "model_b"])
        assert [one.replies for one in rows.preferences] == [("b", "a")]
        assert counted(rows) == {"tie": 2, "unlabelled": 1}

    def test_references_are_taken_out(self, rows_of):
        rows = self.compare(
            rows_of, ("p", "x [1][2, 3].", "y [n].", 1, 0), remove=r"\s*\[\d+(?:,\s*\d+)*\]"
        )
        assert rows.preferences[0].replies == ("x.", "y [n].")

    def test_article_where_there_is_no_post(self, rows_of):
        record = {
            "info": {"post": None, "article": "Long {x}.", "title": "T"},
            "summaries": [{"text": "a"}, {"text": "b"}],
            "choice": 0,
        }
        rows = rows_of("comparison", record, prompt="{info.post?}{info.article?}", choice="choice",
                       replies=["summaries.0.text", "summaries.1.text"],
                       prompts=["Sum up: {}"])  # fmt: skip
        assert said(rows.prompts[0]) == [("u", "Sum up: Long {x}.")]


class TestMultipleChoice:
    RECORD = {"ctx": "c", "endings": ["a", "b", "b", "d"], "label": "0"}  # noqa: RUF012

    def test_right_before_one_wrong(self, rows_of):
        (pair,) = rows_of("choices", self.RECORD).preferences
        assert pair.replies[0] == "a"
        assert pair.replies[1] in ("b", "d")

    def test_right_before_each_wrong(self, rows_of):
        rows = rows_of("choices", self.RECORD, wrong="all")
        assert [(one.id, one.replies) for one in rows.preferences] == [
            ("1.1", ("a", "b")), ("1.2", ("a", "d"))]  # fmt: skip
        assert len(rows.conversations) == len(rows.prompts) == 1

    @pytest.mark.parametrize("label", ["", None, -1, "-1"])
    def test_without_a_label_as_in_test_splits(self, rows_of, label):
        rows = rows_of("choices", self.RECORD, {**self.RECORD, "label": label})
        assert len(rows.preferences) == 1
        assert rows.counts["unlabelled"] == 1

    @pytest.mark.parametrize("label", [1, 1.0, "1", "1.0"])
    def test_labels_as_files_of_other_kinds_have_them(self, rows_of, label):
        (pair,) = rows_of("choices", {**self.RECORD, "label": label}).preferences
        assert pair.replies[0] == "b"

    @pytest.mark.parametrize("label", [0.5, "²", True, 4, -2, "B"])
    def test_labels_that_are_no_positions(self, rows_of, label):
        with pytest.raises(DataError, match="Column `label` holds"):
            rows_of("choices", {**self.RECORD, "label": label})

    def test_endings_that_are_left_out_are_counted(self, rows_of):
        record = {**self.RECORD, "endings": ["a", " ", "b", "a", "b", "c"]}
        rows = rows_of("choices", record, wrong="all")
        assert [one.replies for one in rows.preferences] == [("a", "b"), ("a", "c")]
        assert counted(rows) == {"empty_choice": 1, "duplicate_reply": 2}

    def test_all_views_are_in_one_group(self, rows_of):
        record = {**self.RECORD, "ctx": [system("s"), user("c")]}
        rows = rows_of("choices", record, wrong="all")
        (group,) = {one.group for one in (*rows.preferences, *rows.prompts, *rows.conversations)}
        assert group == rows_of("choices", self.RECORD).prompts[0].group

    def test_a_key_that_looks_like_no_label(self, rows_of):
        record = {**self.RECORD, "endings": ["x", "y"], "keys": [-1, 1], "label": -1}
        assert rows_of("choices", record, keys="keys").preferences[0].replies == ("x", "y")

    @pytest.mark.parametrize("keys", [["A"], "AB", ["A", "B", "C"]])
    def test_keys_that_are_not_one_for_each(self, rows_of, keys):
        record = {**self.RECORD, "endings": ["x", "y"], "keys": keys, "label": "A"}
        with pytest.raises(DataError, match="Column `keys` holds"):
            rows_of("choices", record, keys="keys")

    def test_keys(self, rows_of):
        record = {"q": "?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"}
        rows = rows_of("choices", record, prompt="q", choices="choices.text",
                       keys="choices.label", label="answerKey")  # fmt: skip
        assert rows.preferences[0].replies == ("y", "x")


class TestLabelled:
    GOOD = {"prompt": "p", "completion": "yes", "label": True}  # noqa: RUF012
    BAD = {"prompt": "p", "completion": "no", "label": False}  # noqa: RUF012

    def test_what_was_rejected_is_a_prompt_only(self, rows_of):
        rows = rows_of("labelled", self.BAD, self.GOOD)
        assert [(one.id, said(one)) for one in rows.conversations] == [
            ("2", [("u", "p"), ("a", "yes")])
        ]
        assert [one.id for one in rows.prompts] == ["1", "2"]
        assert not rows.preferences
        assert counted(rows) == {"rejected_reply": 1}
        assert [(one.id, one.reply, one.desirable) for one in rows.feedbacks] == [
            ("1", "no", False),
            ("2", "yes", True),
        ]

    def test_paired_replies_are_feedback_too(self, rows_of):
        """But for one that has both labels."""
        both = {**self.GOOD, "completion": "both"}
        rows = rows_of("labelled", self.GOOD, self.BAD, both, {**both, "label": False}, pairs=True)
        assert [(one.id, one.reply, one.desirable) for one in rows.feedbacks] == [
            ("1", "yes", True),
            ("2", "no", False),
        ]
        assert len(rows.preferences) == 1

    @pytest.mark.parametrize("label", [1, 0, 1.0, 0.0, "1", "0", "True", "false", " true "])
    def test_labels_as_files_of_other_kinds_have_them(self, rows_of, label):
        rows = rows_of("labelled", {**self.GOOD, "label": label})
        assert len(rows.conversations) == (str(label).strip().lower() in ("1", "1.0", "true"))

    @pytest.mark.parametrize(
        ("label", "good"),
        [("desirable", 1), ("Undesirable", 0), ("chosen", 1), ("rejected", 0), ("bad ", 0)],
    )
    def test_labels_in_words(self, rows_of, label, good):
        """As demonstrations beside a label have them."""
        rows = rows_of("labelled", {**self.GOOD, "label": label})
        assert len(rows.conversations) == good
        assert len(rows.prompts) == 1

    @pytest.mark.parametrize("label", ["yes", "fair", 2, -1, 0.5, [True], {"a": True}, "truethy"])
    def test_labels_that_say_neither(self, rows_of, label):
        with pytest.raises(DataError, match="Column `label` holds"):
            rows_of("labelled", {**self.GOOD, "label": label})

    def test_layouts_of_other_makers(self, rows_of):
        trl = {"prompt": [user("p")], "completion": [bot("a")], "label": True}
        factory = {"messages": [user("p"), bot("a")], "label": True}
        alpaca = {"instruction": "p", "input": "", "output": "a", "kto_tag": True}
        found = [
            rows_of("labelled", trl),
            rows_of("labelled", factory, completion="messages"),
            rows_of("labelled", alpaca, prompt="{instruction}\n{input?}", completion="output",
                    label="kto_tag"),
        ]  # fmt: skip
        assert found[0] == found[1] == found[2]
        assert said(found[0].conversations[0]) == [("u", "p"), ("a", "a")]

    def test_pairs_of_what_one_prompt_has_of_both(self, rows_of):
        records = [
            {"prompt": prompt, "completion": text, "label": label}
            for prompt, text, label in (
                ("p", "bad 1", False), ("q", "lone", False), ("p", "good 1", True),
                ("p", "bad 2", False), ("p", "both", True), ("p", "both", False),
                ("p", "good 2", True), ("p", "good 2 ", True), ("r", "only", True),
            )
        ]  # fmt: skip
        rows = rows_of("labelled", *records, pairs=True)
        assert [(one.id, one.replies) for one in rows.preferences] == [
            ("3.1", ("good 1", "bad 1")),
            ("3.2", ("good 1", "bad 2")),
            ("7.1", ("good 2", "bad 1")),
            ("7.2", ("good 2", "bad 2")),
        ]
        assert [one.id for one in rows.conversations] == ["3", "7", "9"]
        assert [(one.id, said(one)[0][1]) for one in rows.prompts] == [
            ("1", "p"),
            ("2", "q"),
            ("9", "r"),
        ]
        assert counted(rows) == {"duplicate_reply": 2, "label_differs": 1, "rejected_reply": 1}


class TestScored:
    def rows(self, rows_of, *scores, **options):
        records = [
            {"prompt": prompt, "response": text, **dict(zip("abc", values, strict=False))}
            for prompt, text, *values in scores
        ]
        return rows_of("scored", *records, **options)

    def test_replies_of_one_prompt_in_the_order_of_their_scores(self, rows_of):
        rows = self.rows(
            rows_of, ("p", "x", 1), ("q", "lone", 0), ("p", "y", "2.5"), ("p", "z", -1), scores="a"
        )
        assert [(one.id, one.replies) for one in rows.preferences] == [("1", ("y", "x", "z"))]
        assert [(one.id, said(one)[-1][1]) for one in rows.conversations] == [
            ("1", "y"),
            ("2", "lone"),
        ]
        assert [one.id for one in rows.prompts] == ["1", "2"]
        assert not counted(rows)

    def test_weights(self, rows_of):
        weights = {"a": 0.65, "b": 0.8, "c": -0.5}
        given = [("p", "x", 4, 0, 1), ("p", "y", 0, 3, 0), ("p", "z", 3, 1, 2)]
        sums = {one[1]: 0.65 * one[2] + 0.8 * one[3] - 0.5 * one[4] for one in given}
        rows = self.rows(rows_of, *given, scores=weights)
        assert list(rows.preferences[0].replies) == sorted(sums, key=lambda one: -sums[one])

    def test_sums_that_are_equal_on_paper_are_ties(self, rows_of):
        assert 0.1 + 0.7 != 0.8
        given = [("p", "x", 1, 1, 0), ("p", "y", 0, 0, 1), ("p", "z", 0, 0, 0)]
        rows = self.rows(rows_of, *given, scores={"a": 0.1, "b": 0.7, "c": 0.8})
        assert rows.preferences[0].replies == ("x", "z")
        assert counted(rows) == {"tie": 1}

    def test_a_reply_that_occurs_twice_counts_by_its_best_score(self, rows_of):
        rows = self.rows(rows_of, ("p", "x", 9), ("p", "y", 5), ("p", "x ", 1), scores="a")
        assert rows.preferences[0].replies == ("x", "y")
        assert counted(rows) == {"duplicate_reply": 1}

    def test_poor_replies_are_no_demonstrations(self, rows_of):
        given = [("p", "x", 1), ("p", "y", 1.5), ("q", "z", 2)]
        rows = self.rows(rows_of, *given, scores="a", min_score=2.0)
        assert [said(one)[0][1] for one in rows.conversations] == ["q"]
        assert [one.replies for one in rows.preferences] == [("y", "x")]
        assert len(rows.prompts) == 2
        assert counted(rows) == {"low_score": 1}

    @pytest.mark.parametrize("score", [None, float("nan"), "nan", "inf", "good", True, [1]])
    def test_scores_that_are_no_numbers(self, rows_of, score):
        with pytest.raises(DataError, match="column a"):
            self.rows(rows_of, ("p", "x", 1), ("p", "y", score), scores="a")

    def test_dialogues(self, rows_of):
        records = [
            {"response": [user("p"), bot("q"), user("r"), bot(text)], "score": i}
            for i, text in enumerate("xy")
        ]
        rows = rows_of("scored", *records)
        assert said(rows.preferences[0]) == [("u", "p"), ("a", "q"), ("u", "r")]
        assert rows.preferences[0].replies == ("y", "x")
