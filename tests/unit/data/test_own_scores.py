"""Scores that a source has of replies: kept in rows and samples, and asked for by losses."""

from __future__ import annotations

import datasets
import pytest
from support.written import write_dataset, write_rows

from rlhf.data.encoding import Encoder
from rlhf.data.enough import require_scores
from rlhf.data.mixture import Mixture
from rlhf.data.rows import Message, Preference
from rlhf.data.rows_file import RowsFile, RowsWriter, read_all
from rlhf.data.tokenizing import Limits, Tally, features_of, tokenize
from rlhf.errors import ConfigError, DataError

RATED = [
    {"prompt": "p", "response": "good", "help": 4, "short": 1},
    {"prompt": "p", "response": "bad", "help": 0, "short": 2},
    {"prompt": "p", "response": "fair", "help": 2, "short": 4},
]


@pytest.mark.parametrize(
    ("name", "records", "options", "replies", "scores"),
    [
        ("scored", RATED, {"scores": {"help": 0.5, "short": -0.25}},
         ("good", "fair", "bad"), (1.75, 0.0, -0.5)),
        ("scored", RATED, {"scores": "short"}, ("fair", "bad", "good"), (4.0, 2.0, 1.0)),
        ("comparison", [{"prompt": "p", "a": "x", "b": "y", "sa": "1.5", "sb": 7}],
         {"replies": ["a", "b"], "scores": ["sa", "sb"]}, ("y", "x"), (7.0, 1.5)),
        ("comparison", [{"prompt": "p", "a": "x", "b": "y", "sa": 1, "sb": 7},
                        {"prompt": "p", "a": "z", "b": "x", "sa": 3, "sb": 2}],
         {"replies": ["a", "b"], "scores": ["sa", "sb"], "merge": True},
         ("y", "z", "x"), (7.0, 3.0, 2.0)),
        ("comparison", [{"prompt": "p", "a": "x", "b": "y", "best": 1}],
         {"replies": ["a", "b"], "choice": "best"}, ("y", "x"), ()),
        ("ranked", [{"prompt": "p", "replies": [{"t": "x", "s": 1}, {"t": "y", "s": 2.5}]}],
         {"text": "t", "score": "s"}, ("y", "x"), (2.5, 1.0)),
        ("ranked", [{"prompt": "p", "replies": [{"t": "x", "s": 1}], "w": ["z"]}],
         {"text": "t", "score": "s", "worst": "w"}, ("x", "z"), ()),
        ("preference", [{"prompt": "p", "chosen": "x", "rejected": "y", "c": 4, "r": 1.5}],
         {"scores": ["c", "r"]}, ("x", "y"), (4.0, 1.5)),
        ("preference", [{"prompt": "p", "chosen": "x", "rejected": "y", "m": 0.75}],
         {"margin": "m"}, ("x", "y"), (0.75, 0.0)),
        ("preference", [{"prompt": "p", "chosen": "x", "rejected": "y", "m": 1}],
         {}, ("x", "y"), ()),
    ],
)  # fmt: skip
def test_formats_keep_scores(rows_of, name, records, options, replies, scores):
    (row,) = rows_of(name, *records, **options).preferences
    assert (row.replies, row.scores) == (replies, scores)


def test_a_score_that_is_no_number_is_a_fault(rows_of):
    record = {"prompt": "p", "chosen": "x", "rejected": "y", "c": 4, "r": "much"}
    with pytest.raises(DataError, match="r"):
        rows_of("preference", record, scores=["c", "r"])
    for options in ({"scores": ["c"]}, {"scores": ["c", "r"], "margin": "r"}):
        with pytest.raises(ConfigError, match="scores"):
            rows_of("preference", record, **options)


def preference(row_id: str, *scores: float) -> Preference:
    replies = tuple(f"reply {i} " * (4 - i) for i in range(4))
    return Preference(row_id, "g", (Message("user", "q"),), replies, scores=scores)


def test_rows_files_without_scores_are_as_ever(tmp_path):
    """A column more would be other bytes: a dataset would be fetched, and all trained, again."""
    scored, plain = preference("a", 4, 3, 2.5, 0), preference("a")
    for name, row in (("scored", scored), ("plain", plain)):
        (tmp_path / name).mkdir()
        with RowsWriter(tmp_path / name, scored=bool(row.scores)) as writer:
            writer.add(row, "train")
        assert RowsFile(tmp_path / name, "preference").scored == bool(row.scores)
        assert read_all(tmp_path / name).preferences == [row]
    (tmp_path / "default").mkdir()
    write_rows(tmp_path / "default", [(plain, "train")])
    files = [(tmp_path / name / "preference.parquet").read_bytes() for name in ("plain", "default")]
    assert files[0] == files[1]
    with pytest.raises(DataError, match="4 replies and 1 scores"):
        preference("b", 1.0)


def test_scores_stay_with_their_replies(make_tokenizer, tmp_path):
    """Whichever replies are too long, equal to others once they are tokenized, or too many."""
    encoder = Encoder(make_tokenizer("chatml", bos=True))
    row = preference("a", 4, 3, 2.5, 0)
    replies = [list(encoder.reply(row.history, text)) for text in row.replies]
    history = len(encoder.prompt(row.history))

    def sample(**options):
        limits = Limits("preference", **{"max_length": 500, "overlong": "drop"} | options)
        (made,) = tokenize([row], encoder, limits, Tally())
        return [[*ids] for ids in made["reply_ids"]], made["scores"]

    assert sample() == (replies, [4, 3, 2.5, 0])
    assert sample(max_replies=2) == (replies[:2], [4, 3])
    assert sample(max_length=history + len(replies[1])) == (replies[1:], [3, 2.5, 0])
    features = features_of("preference", scored=True)
    made = list(tokenize([row], encoder, Limits("preference", 500, "drop"), Tally()))
    for split in ("train", "validation"):
        write_dataset(tmp_path / "scored" / split, features, made)
        plain = [{key: value for key, value in one.items() if key != "scores"} for one in made]
        write_dataset(tmp_path / "plain" / split, features_of("preference"), plain)
    assert datasets.load_from_disk(str(tmp_path / "scored/train"))[0]["scores"] == [4, 3, 2.5, 0]
    require_scores("reward.r", "loss.margin", Mixture({"a": tmp_path / "scored"}, {}, "train"))
    both = Mixture({name: tmp_path / name for name in ("scored", "plain")}, {}, "train")
    with pytest.raises(DataError, match=r"have no scores.*: plain") as caught:
        require_scores("reward.r", "loss.margin", both)
    assert "datasets.<name>.options" in str(caught.value)
