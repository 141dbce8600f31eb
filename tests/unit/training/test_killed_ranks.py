"""A rank that is killed at a random moment, by every kind of engine."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest
import torch
from support.programs import killed_runs, supervised_ranks
from support.tiny_models import run_ranks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of runs that were killed, and of those that were not."""
    folder = tmp_path_factory.mktemp("killed")
    supervised_ranks.save_set(folder)
    seed = os.environ.get("KILL_SEED", str(secrets.randbelow(10**6)))
    print(f"KILL_SEED={seed}")  # the same seed kills the same rank at the same share of a run
    script = Path(killed_runs.__file__).with_name("forked_ranks.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KILL_SEED", seed)
        run_ranks(script, folder, ranks=1, timeout=900)
    return folder


@pytest.mark.parametrize("kind", killed_runs.KINDS)
def test_a_run_that_was_killed_ends_with_the_same_bytes(folder, kind):
    """Checklist 40"""
    straight, resumed = (
        torch.load(folder / kind / name / "weights.pt") for name in ("straight", "killed")
    )
    assert straight.keys() == resumed.keys()
    for name, tensor in straight.items():
        assert torch.equal(tensor, resumed[name]), name
    journals = [
        next((folder / kind / name).glob("*/metrics.jsonl")).read_bytes()
        for name in ("straight", "killed")
    ]
    assert journals[0] == journals[1]
