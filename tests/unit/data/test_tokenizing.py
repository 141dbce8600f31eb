"""Samples within a length: what is cut, what is dropped, what is counted."""

from __future__ import annotations

import filecmp
from array import array

import datasets
import pyarrow as pa
import pytest
from support.written import write_dataset

from rlhf.data.arrow import DATA_FILE, DatasetWriter, record_batch
from rlhf.data.encoding import Encoder
from rlhf.data.labels import IGNORED
from rlhf.data.rows import Conversation, Feedback, Message, Preference, Prompt, Properties
from rlhf.data.tags import ReplyTags
from rlhf.data.tokenizing import Limits, Tally, features_of, tokenize
from rlhf.errors import DataError

MIN_QUESTION = 16


def user(text):
    return Message("user", text)


def bot(text):
    return Message("assistant", text)


LONG = "one two three four five six seven eight nine ten eleven twelve thirteen"
TURNS = (user("first question"), bot("first answer"), user("second question"))


@pytest.fixture(params=["chatml", "oasst", "hh"])
def encoder(make_tokenizer, request):
    return Encoder(make_tokenizer(request.param, bos=True))


def run(encoder, row, view, max_length, overlong="truncate", **options):
    tally = Tally()
    limits = Limits(view, max_length, overlong, **options)
    return list(tokenize([row], encoder, limits, tally)), tally


class TestSft:
    row = Conversation("row", "g", (*TURNS, bot("second answer")))

    def test_what_fits_is_whole(self, encoder):
        ids, labels = encoder.conversation(self.row.messages)
        (sample,), tally = run(encoder, self.row, "conversation", len(ids))
        assert sample == {"id": "row", "input_ids": ids, "labels": labels}
        assert tally.as_dict("conversation") == {
            "source_rows": 1,
            "rows": 1,
            "tokens": len(ids),
            "labels": sum(label != IGNORED for label in labels),
            "label_share": pytest.approx(
                sum(label != IGNORED for label in labels) / len(ids), abs=1e-6
            ),
            "truncated": 0,
            "truncations": {},
            "dropped": 0,
            "dropped_reasons": {},
        }

    def test_oldest_turns_go_first(self, encoder):
        whole, _ = encoder.conversation(self.row.messages)
        (sample,), tally = run(encoder, self.row, "conversation", len(whole) - 1)
        assert (sample["input_ids"], sample["labels"]) == encoder.conversation(
            self.row.messages[2:]
        )
        assert (tally.truncated, tally.truncations) == (1, {"turns": 1})

    def test_system_message_stays(self, encoder):
        system = Message("system", "Be kind.")
        row = Conversation("row", "g", (system, *self.row.messages))
        least, _ = encoder.conversation((system, *self.row.messages[2:]))
        (sample,), _ = run(encoder, row, "conversation", len(least))
        assert sample["input_ids"] == least

    def test_then_the_beginning_of_the_question(self, encoder):
        row = Conversation("row", "g", (user(LONG), bot("short")))
        whole, labels = encoder.conversation(row.messages)
        (sample,), tally = run(
            encoder, row, "conversation", len(whole) - 3, min_prefix=MIN_QUESTION
        )
        question, reply = encoder.texts(row.messages)
        assert (sample["input_ids"], sample["labels"]) == encoder.join(
            row.messages, [question[3:], reply]
        )
        assert [x for x in sample["labels"] if x != IGNORED] == [x for x in labels if x != IGNORED]
        assert sample["input_ids"][0] == whole[0]  # BOS
        assert tally.as_dict("conversation")["truncations"] == {"question": 1}

    def test_reply_is_never_cut(self, encoder):
        row = Conversation("row", "g", (user(LONG), bot("short")))
        whole, _ = encoder.conversation(row.messages)
        question = len(encoder.texts(row.messages)[0])
        least = len(whole) - question + MIN_QUESTION
        assert run(encoder, row, "conversation", least, min_prefix=MIN_QUESTION)[1].rows == 1
        samples, tally = run(encoder, row, "conversation", least - 1, min_prefix=MIN_QUESTION)
        assert not samples
        assert tally.dropped == {"overlong": 1}
        assert tally.truncated == 0

    @pytest.mark.parametrize("min_prefix", [1, 5])
    def test_what_a_cut_leaves_of_the_question(self, encoder, min_prefix):
        row = Conversation("row", "g", (*TURNS, bot("a"), user(LONG), bot("short")))
        last, _ = encoder.conversation(row.messages[4:])
        least = len(last) - len(encoder.texts(row.messages)[4]) + min_prefix
        (sample,), tally = run(encoder, row, "conversation", least, min_prefix=min_prefix)
        assert len(sample["input_ids"]) == least
        assert tally.truncations == {"turns": 1, "question": 1}
        assert not run(encoder, row, "conversation", least - 1, min_prefix=min_prefix)[0]

    def test_an_answer_is_never_trained_on_half_its_question(self, encoder):
        """By default; the numbers at the beginning of a word problem decide its answer."""
        problem = user(
            "Ann has 12 apples and gives 5 of them away. " + LONG + " How many are left?"
        )
        answer = bot("12 - 5 = 7. She has 7 apples left.")
        row = Conversation("row", "g", (problem, answer))
        whole, labels = encoder.conversation(row.messages)
        (sample,), tally = run(encoder, row, "conversation", len(whole))
        assert (sample["input_ids"], sample["labels"]) == (whole, labels)
        for limit in (len(whole) - 1, len(whole) - len(encoder.texts(row.messages)[0]) + 1):
            samples, tally = run(encoder, row, "conversation", limit)
            assert not samples
            assert tally.as_dict("conversation")["dropped_reasons"] == {"long_question": 1}
            assert (tally.truncated, tally.truncations) == (0, {})
        longer = Conversation("row", "g", (*TURNS, bot("a"), problem, answer))
        (sample,), tally = run(encoder, longer, "conversation", len(whole))
        assert (sample["input_ids"], sample["labels"]) == (whole, labels)
        assert tally.truncations == {"turns": 1}
        assert not run(encoder, longer, "conversation", len(whole) - 1)[0]

    def test_a_reply_that_is_too_long_is_no_matter_of_the_question(self, encoder):
        row = Conversation("row", "g", (user("why?"), bot(LONG * 9)))
        limit = len(encoder.texts(row.messages)[1])
        assert run(encoder, row, "conversation", limit)[1].dropped == {"overlong": 1}

    def test_system_prefix_comes_first_and_stays(self, encoder):
        own, prefix = Message("system", "Be kind."), Message("system", "You are Joi.")
        for row in (self.row, Conversation("row", "g", (own, *self.row.messages))):
            whole = encoder.conversation((prefix, *row.messages))
            (sample,), _ = run(encoder, row, "conversation", 500, system_prefix="You are Joi.")
            assert (sample["input_ids"], sample["labels"]) == whole
            least, _ = encoder.conversation(
                (prefix, *(one for one in row.messages if one == own), *self.row.messages[2:])
            )
            limit = len(whole[0]) - 1
            (sample,), _ = run(encoder, row, "conversation", limit, system_prefix="You are Joi.")
            assert sample["input_ids"] == least

    def test_drop_and_error(self, encoder):
        whole, _ = encoder.conversation(self.row.messages)
        samples, tally = run(encoder, self.row, "conversation", len(whole) - 1, "drop")
        assert not samples
        assert tally.as_dict("conversation")["dropped_reasons"] == {"overlong": 1}
        assert tally.as_dict("conversation")["label_share"] == 0.0
        with pytest.raises(DataError, match=f"{len(whole)} tokens") as error:
            run(encoder, self.row, "conversation", len(whole) - 1, "error")
        assert "row row" in str(error.value)
        assert f"at most {len(whole) - 1} tokens" in str(error.value)
        assert "tokenization.conversation.max_length" in str(error.value)


class TestRandomOffset:
    """Of dialogues of ten exchanges, about three fit."""

    turns = tuple(turn for i in range(10) for turn in (user(f"why {i}?"), bot(f"so {i}.")))

    def limit(self, encoder):
        return len(encoder.conversation(self.turns[:6])[0]) + 2

    def rows(self, count):
        return [Conversation(f"row {i}", "g", self.turns) for i in range(count)]

    def made(self, encoder, rows, **options):
        tally = Tally()
        limits = Limits("conversation", self.limit(encoder), "truncate", **options)
        return {one["id"]: one for one in tokenize(rows, encoder, limits, tally)}, tally

    def test_whole_exchanges_from_any_turn(self, encoder):
        parts = [encoder.conversation(self.turns[2 * i : 2 * i + 6]) for i in range(8)]
        found, tally = self.made(encoder, self.rows(200), random_offset=1.0)
        starts = [parts.index((one["input_ids"], one["labels"])) for one in found.values()]
        assert set(starts) == set(range(8))
        assert max(map(starts.count, range(8))) < 50
        assert (tally.truncated, tally.truncations) == (200, {"offset": 200})

    def test_offsets_are_the_rows_own(self, encoder):
        found, _ = self.made(encoder, self.rows(50), random_offset=0.8)
        again, _ = self.made(encoder, reversed(self.rows(50)), random_offset=0.8)
        assert again == found
        assert self.made(encoder, self.rows(50), random_offset=0.8, seed=1)[0] != found

    def test_the_others_keep_their_last_turns(self, encoder):
        _, tally = self.made(encoder, self.rows(400), random_offset=0.8)
        assert tally.truncated == 400
        assert 0.74 < tally.truncations["offset"] / 400 < 0.86
        assert tally.truncations["turns"] == 400 - tally.truncations["offset"]

    def test_what_fits_is_whole_and_one_long_exchange_is_cut_as_ever(self, encoder):
        whole = Conversation("row", "g", self.turns[:6])
        found, tally = self.made(encoder, [whole], random_offset=1.0)
        assert found["row"]["input_ids"] == encoder.conversation(whole.messages)[0]
        assert tally.truncated == 0
        long = Conversation("row", "g", (user(LONG * 9), bot("short")))
        found, tally = self.made(encoder, [long], random_offset=1.0, min_prefix=MIN_QUESTION)
        assert len(found["row"]["input_ids"]) == self.limit(encoder)
        assert tally.truncations == {"question": 1}

    def test_system_message_stays(self, encoder):
        system = Message("system", "Be kind.")
        rows = [Conversation(f"{i}", "g", (system, *self.turns)) for i in range(20)]
        found, _ = self.made(encoder, rows, random_offset=1.0)
        start, _ = encoder.join((system,), encoder.texts((system,)))
        assert all(one["input_ids"][: len(start) - 1] == start[:-1] for one in found.values())


class TestPrompt:
    row = Prompt("row", "g", TURNS)

    def test_truncation_and_counts(self, encoder):
        whole = encoder.prompt(TURNS)
        assert run(encoder, self.row, "prompt", len(whole))[0] == [
            {"id": "row", "input_ids": whole}
        ]
        (sample,), tally = run(encoder, self.row, "prompt", len(whole) - 1)
        assert sample["input_ids"] == encoder.prompt(TURNS[2:])
        assert (tally.truncated, tally.tokens) == (1, len(sample["input_ids"]))

    def test_a_question_is_whole(self, encoder):
        row = Prompt("row", "g", (*TURNS[:2], user(LONG)))
        least = encoder.prompt(row.history[2:])
        assert run(encoder, row, "prompt", len(least))[0][0]["input_ids"] == least
        samples, tally = run(encoder, row, "prompt", len(least) - 1)
        assert not samples
        assert tally.as_dict("prompt")["dropped_reasons"] == {"long_question": 1}
        (sample,), tally = run(encoder, row, "prompt", len(least) - 1, min_prefix=4)
        assert len(sample["input_ids"]) == len(least) - 1
        assert tally.truncations == {"turns": 1, "question": 1}

    def test_no_empty_history(self, encoder):
        samples, tally = run(encoder, self.row, "prompt", 3)
        assert not samples
        assert tally.dropped == {"overlong": 1}


class TestPreference:
    replies = ("best", "not so good", LONG, "bad")
    row = Preference("row", "g", TURNS, replies)

    def lengths(self, encoder):
        return [len(encoder.reply(TURNS, reply)) for reply in self.replies]

    def test_best_first(self, encoder):
        (sample,), tally = run(encoder, self.row, "preference", 500)
        assert sample["history_ids"] == encoder.prompt(TURNS)
        assert sample["reply_ids"] == [encoder.reply(TURNS, one) for one in self.replies]
        counts = tally.as_dict("preference")
        assert counts["replies"] == 4
        assert counts["tokens"] == len(sample["history_ids"]) + sum(self.lengths(encoder))
        assert counts["replies_dropped"] == {}

    def test_max_replies(self, encoder):
        (sample,), tally = run(encoder, self.row, "preference", 500, max_replies=2)
        assert sample["reply_ids"] == [encoder.reply(TURNS, one) for one in self.replies[:2]]
        assert tally.as_dict("preference")["replies_dropped"] == {"surplus": 2}

    def test_all_replies_see_the_history_cut_for_the_longest(self, encoder):
        limit = len(encoder.prompt(TURNS)) + max(self.lengths(encoder)) - 1
        (sample,), tally = run(encoder, self.row, "preference", limit)
        assert sample["history_ids"] == encoder.prompt(TURNS[2:])
        assert len(sample["reply_ids"]) == 4
        assert tally.truncated == 1

    def test_reply_that_no_history_fits_is_left_out(self, encoder):
        limit = len(encoder.prompt(TURNS[2:])) + max(self.lengths(encoder)) - 1
        question = len(encoder.texts(TURNS[2:])[0])
        limit -= max(0, question - MIN_QUESTION)
        (sample,), tally = run(encoder, self.row, "preference", limit, min_prefix=MIN_QUESTION)
        assert len(sample["reply_ids"]) == 3
        assert tally.as_dict("preference")["replies_dropped"] == {"overlong": 1}

    def test_a_history_is_never_half_a_question(self, encoder):
        history, replies = (*TURNS[:2], user(LONG)), ("best", "worst")
        row = Preference("row", "g", history, replies)
        least = encoder.prompt(history[2:])
        limit = len(least) + max(len(encoder.reply(history, one)) for one in replies)
        (sample,), tally = run(encoder, row, "preference", limit)
        assert sample["history_ids"] == least
        assert sample["reply_ids"] == [encoder.reply(history, one) for one in replies]
        assert tally.truncations == {"turns": 1}
        samples, tally = run(encoder, row, "preference", limit - 3)
        assert not samples
        assert tally.as_dict("preference")["dropped_reasons"] == {"long_question": 1}
        assert tally.truncations == {}
        (sample,), tally = run(encoder, row, "preference", limit - 3, min_prefix=4)
        assert len(sample["history_ids"]) == len(least) - 3
        row = Preference("row", "g", TURNS, (LONG * 9, LONG * 8))
        limit = len(encoder.reply(TURNS, LONG * 8))
        assert run(encoder, row, "preference", limit)[1].dropped == {"overlong": 1}

    def test_drop(self, encoder):
        limit = len(encoder.prompt(TURNS)) + sorted(self.lengths(encoder))[1]
        (sample,), tally = run(encoder, self.row, "preference", limit, "drop")
        assert sample["history_ids"] == encoder.prompt(TURNS)
        assert max(map(len, sample["reply_ids"])) + len(sample["history_ids"]) <= limit
        assert tally.truncated == 0
        shortest = len(encoder.prompt(TURNS)) + min(self.lengths(encoder)) - 1
        samples, tally = run(encoder, self.row, "preference", shortest, "drop")
        assert not samples
        assert tally.dropped == {"overlong": 1}

    def test_error(self, encoder):
        with pytest.raises(DataError, match="row row"):
            run(encoder, self.row, "preference", len(encoder.prompt(TURNS)) + 5, "error")

    @pytest.mark.parametrize("size", range(20, 120, 7))
    def test_within_the_limit_always(self, encoder, size):
        samples, tally = run(encoder, self.row, "preference", size)
        for sample in samples:
            longest = max(map(len, sample["reply_ids"]))
            assert len(sample["history_ids"]) + longest <= size
            assert len(sample["reply_ids"]) >= 2
            assert sample["history_ids"]
        assert len(samples) + tally.dropped.total() == 1

    def test_replies_that_a_normalizer_makes_equal_are_one(self, make_tokenizer):
        from tokenizers import normalizers

        tokenizer = make_tokenizer("oasst")
        tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
        row = Preference("row", "g", TURNS, ("Yes", "yes", "no"))
        (sample,), tally = run(Encoder(tokenizer), row, "preference", 500)
        assert len(sample["reply_ids"]) == 2
        assert tally.replies_dropped["duplicate"] == 1
        row = Preference("row", "g", TURNS, ("Yes", "yes"))
        samples, tally = run(Encoder(tokenizer), row, "preference", 500)
        assert not samples
        assert tally.dropped == {"duplicate_replies": 1}


class TestFolder:
    samples = tuple({"id": str(i), "input_ids": list(range(i % 7 + 1))} for i in range(2500))

    def test_opens_as_a_dataset(self, tmp_path):
        write_dataset(tmp_path, features_of("prompt"), iter(self.samples))
        opened = datasets.load_from_disk(str(tmp_path))
        assert opened.to_list() == list(self.samples)
        assert opened.features == features_of("prompt")
        assert len(opened.filter(lambda row: len(row["input_ids"]) == 7)) == 357

    def test_equal_samples_give_equal_files(self, tmp_path):
        for name in ("a", "b"):
            write_dataset(tmp_path / name, features_of("prompt"), self.samples)
        write_dataset(tmp_path / "c", features_of("prompt"), self.samples[1:])
        names = sorted(path.name for path in (tmp_path / "a").iterdir())
        assert names == ["data-00000-of-00001.arrow", "dataset_info.json", "state.json"]
        same = filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", names, shallow=False)
        assert same == (names, [], [])
        a, c = (datasets.load_from_disk(str(tmp_path / name)) for name in "ac")
        assert a._fingerprint != c._fingerprint

    def test_bytes_do_not_depend_on_how_rows_come(self, tmp_path):
        features, files = features_of("prompt"), []
        for size in (1, 999, 1001, 2500):
            with DatasetWriter(tmp_path / str(size), features) as writer:
                for start in range(0, len(self.samples), size):
                    some = self.samples[start : start + size]
                    writer.add(record_batch(features.arrow_schema, some))
            files.append((tmp_path / str(size) / DATA_FILE).read_bytes())
        assert len(set(files)) == 1
        with pa.ipc.open_stream(files[0]) as stream:
            assert [len(batch) for batch in stream] == [1000, 1000, 500]

    def test_arrays_of_ids_are_as_lists(self):
        schema = features_of("preference").arrow_schema
        samples = [
            {"id": "a", "history_ids": [1, 2], "reply_ids": [[3], [], [-100, 2**31 - 1]]},
            {"id": "b", "history_ids": [], "reply_ids": []},
        ]
        arrays = [
            {
                "id": one["id"],
                "history_ids": array("i", one["history_ids"]),
                "reply_ids": [array("i", ids) for ids in one["reply_ids"]],
            }
            for one in samples
        ]
        assert record_batch(schema, arrays).equals(record_batch(schema, samples))
        assert record_batch(schema, arrays).to_pylist() == samples

    @pytest.mark.parametrize("view", ["conversation", "preference", "prompt"])
    def test_empty_split_opens_with_its_columns(self, tmp_path, view):
        write_dataset(tmp_path, features_of(view), [])
        opened = datasets.load_from_disk(str(tmp_path))
        assert len(opened) == 0
        assert opened.features == features_of(view)


class TestFeedback:
    row = Feedback("row", "g", TURNS, "second answer", False)

    def test_a_reply_after_its_history_with_its_label(self, encoder):
        (sample,), tally = run(encoder, self.row, "feedback", 500)
        reply = encoder.reply(TURNS, "second answer")
        history = encoder.prompt(TURNS)
        expected = {"id": "row", "history_ids": history, "reply_ids": [reply], "desirable": False}
        assert sample == expected
        counts = tally.as_dict("feedback")
        assert (counts["rows"], counts["desirable"]) == (1, 0)
        assert counts["tokens"] == len(history) + len(reply)
        good = Feedback("row", "g", TURNS, "second answer", True)
        assert run(encoder, good, "feedback", 500)[1].as_dict("feedback")["desirable"] == 1

    def test_the_oldest_turns_go_and_never_the_reply(self, encoder):
        reply = encoder.reply(TURNS, "second answer")
        limit = len(encoder.prompt(TURNS)) + len(reply) - 1
        (sample,), tally = run(encoder, self.row, "feedback", limit)
        assert sample["history_ids"] == encoder.prompt(TURNS[2:])
        assert sample["reply_ids"] == [reply]
        assert tally.truncations == {"turns": 1}

    def test_what_does_not_fit_is_dropped(self, encoder):
        history = (user(LONG),)
        row = Feedback("row", "g", history, "yes", True)
        limit = len(encoder.prompt(history)) + len(encoder.reply(history, "yes")) - 1
        found, tally = run(encoder, row, "feedback", limit)
        assert (found, tally.dropped) == ([], {"long_question": 1})
        (sample,), _ = run(encoder, row, "feedback", limit, min_prefix=4)
        assert len(sample["history_ids"]) + len(sample["reply_ids"][0]) == limit
        row = Feedback("row", "g", (user("q"),), LONG, True)
        found, tally = run(encoder, row, "feedback", len(encoder.reply((user("q"),), LONG)))
        assert (found, tally.dropped) == ([], {"overlong": 1})
        with pytest.raises(DataError, match=r"tokenization\.feedback\.max_length"):
            run(encoder, row, "feedback", 20, overlong="error")

    def test_a_tag_stands_before_the_reply(self, encoder):
        known = Properties(lang="en", quality=0.5)
        row = Feedback("row", "g", TURNS, "second answer", True, known)
        tags = ReplyTags(0.0, False)
        (sample,), _ = run(encoder, row, "feedback", 500, reply_tags=tags)
        ranked = Preference("row", "g", TURNS, ("second answer", "b"), (known, None))
        (both,), _ = run(encoder, ranked, "preference", 500, reply_tags=tags)
        assert sample["reply_ids"] == both["reply_ids"][:1]
        assert sample["reply_ids"] != [encoder.reply(TURNS, "second answer")]
