"""Splits and stages follow from the root prompt alone."""

from __future__ import annotations

from collections import Counter

import pytest

from rlhf.data.split import group_of, part_of, split_of

GROUPS = [group_of(f"question {i}") for i in range(4000)]
PARTS = {"conversation": 2.0, "preference": 4.0, "prompt": 4.0}


def test_case_and_white_space_make_no_other_group():
    assert group_of("Why is  it\nblue?") == group_of("why is it BLUE?")


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5])
def test_the_held_out_share_is_about_the_fraction(fraction):
    held = [group for group in GROUPS if split_of(group, fraction) == "validation"]
    assert len(held) == pytest.approx(fraction * len(GROUPS), abs=100)
    assert (len(held) == 0) == (fraction == 0)


def test_a_larger_fraction_holds_out_the_same_and_more():
    small, large = ({g for g in GROUPS if split_of(g, f) == "validation"} for f in (0.1, 0.3))
    assert small < large


def test_another_salt_holds_out_others():
    a, b = ({g for g in GROUPS if split_of(g, 0.2, salt) == "validation"} for salt in ("", "x"))
    assert len(a & b) == pytest.approx(0.04 * len(GROUPS), abs=60)


def test_stages_get_parts_of_the_size_asked_for():
    found = Counter(part_of(group, PARTS) for group in GROUPS)
    for stage, part in PARTS.items():
        assert found[stage] == pytest.approx(part / 10 * len(GROUPS), abs=120)
    assert [part_of(g, PARTS) for g in GROUPS[:99]] == [
        part_of(g, {name: part / 10 for name, part in PARTS.items()}) for g in GROUPS[:99]
    ]


def test_a_stage_without_a_part_gets_nothing():
    assert {part_of(g, {"conversation": 0, "preference": 3, "prompt": 0}) for g in GROUPS} == {
        "preference"
    }


def test_stages_do_not_follow_the_split():
    """A stage's part is as large among the groups that one fraction holds out as among others."""
    held = [group for group in GROUPS if split_of(group, 0.3) == "validation"]
    share = sum(part_of(group, PARTS) == "conversation" for group in held) / len(held)
    assert share == pytest.approx(0.2, abs=0.04)
    assert Counter(part_of(g, PARTS, "x") == part_of(g, PARTS) for g in GROUPS)[False] > 1000
