from __future__ import annotations

import pytest

from rlhf.errors import IntegrityError
from rlhf.training.metrics import Journal, read_jsonl


def test_a_journal_is_cut_back_to_a_saved_position(tmp_path):
    """Checklist 40"""
    journal = Journal(tmp_path / "deep" / "metrics.jsonl")
    journal.append({"step": 1, "loss": 0.1})
    position = journal.position()
    assert position == (tmp_path / "deep" / "metrics.jsonl").stat().st_size
    journal.append({"step": 2})
    again = Journal(tmp_path / "deep" / "metrics.jsonl")
    assert again.records() == [{"loss": 0.1, "step": 1}, {"step": 2}]
    again.rewind(position)
    assert again.records() == [{"loss": 0.1, "step": 1}]
    again.append({"step": 3})
    assert [record["step"] for record in again.records()] == [1, 3]
    assert again.position() == (tmp_path / "deep" / "metrics.jsonl").stat().st_size
    again.rewind(0)
    assert again.records() == []


def test_a_line_that_was_cut_by_a_crash_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    journal.append({"step": 1})
    position = journal.position()
    with open(path, "ab") as stream:
        stream.write(b'{"step": 2, "lo')
    again = Journal(path)
    again.rewind(position)
    again.append({"step": 2})
    assert again.records() == [{"step": 1}, {"step": 2}]


def test_a_journal_that_lost_lines_is_an_error(tmp_path):
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.append({"step": 1})
    with pytest.raises(IntegrityError, match="The journal has 11 bytes; the saved state knew 99"):
        journal.rewind(99)
    assert journal.records() == [{"step": 1}]


@pytest.mark.parametrize("text", ["\u2028", "\x85", "\u2029", "\n", "\r\n", "\x1c", "ä\x00"])
def test_any_text_is_one_line(tmp_path, text):
    """Checklist 38"""
    journal = Journal(tmp_path / "samples.jsonl")
    records = [{"response": f"a{text}b"}, {"response": text}]
    for record in records:
        journal.append(record)
    assert journal.records() == records
    assert (tmp_path / "samples.jsonl").read_bytes().count(b"\n") == 2


def test_equal_records_have_equal_bytes_and_floats_are_exact(tmp_path):
    left, right = Journal(tmp_path / "a"), Journal(tmp_path / "b")
    left.append({"b": 0.1 + 0.2, "a": 1e-300})
    right.append({"a": 1e-300, "b": 0.1 + 0.2})
    left.publish(tmp_path / "results" / "metrics.jsonl")
    assert (tmp_path / "results" / "metrics.jsonl").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_jsonl(tmp_path / "b") == [{"a": 1e-300, "b": 0.1 + 0.2}]


def test_a_measure_that_is_not_a_number_is_refused(tmp_path):
    journal = Journal(tmp_path / "a")
    with pytest.raises(ValueError, match="JSON"):
        journal.append({"loss": float("nan")})
    assert journal.records() == []
