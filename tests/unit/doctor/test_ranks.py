from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.doctor.ranks import check_ranks

pytestmark = pytest.mark.usefixtures("no_launcher")


def test_two_ranks_reduce(tmp_path):
    check = check_ranks(1, 0, None, tmp_path / "logs")
    assert check.verdict == "ok", check
    assert check.found.startswith("2 ranks on 1 nodes by gloo: ")
    assert list((tmp_path / "logs").iterdir()) == []


def test_ranks_that_can_not_start(tmp_path):
    check = check_ranks(1, 0, Path("no-such-image.sif"), tmp_path)
    assert check.verdict == "failed"
    assert "rlhf.doctor.ranks" in check.to_do
