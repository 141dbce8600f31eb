"""Three and four processes: ranks without rows, and ranks that are killed."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest
import torch
from support.programs import killed_runs, many_ranks, supervised_ranks
from support.tiny_models import run_ranks
from support.tiny_online import save_prompts

SHARDED = [(3, "fsdp"), (3, "zero3"), (4, "fsdp")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all processes have left what they came to."""
    folder, seed = tmp_path_factory.mktemp("ranks"), str(secrets.randbelow(10**6))
    save_prompts(folder / "prompts")
    supervised_ranks.save_set(folder)
    seed = os.environ.get("KILL_SEED", seed)
    print(f"KILL_SEED={seed}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KILL_SEED", seed)
        script = Path(many_ranks.__file__).with_name("forked_ranks.py")
        run_ranks(script, folder, ranks=1, timeout=1200)
    return folder


@pytest.fixture(scope="module")
def runs(folder):
    """Number of processes → what each of them came to by every kind of engine."""
    return {
        ranks: [torch.load(folder / f"{ranks}-{rank}.pt") for rank in range(ranks)]
        for ranks in many_ranks.KINDS
    }


@pytest.mark.parametrize("run", ["ppo", "sft"])
@pytest.mark.parametrize(("ranks", "kind"), SHARDED)
def test_ranks_with_nothing_to_do_take_part(runs, ranks, kind, run):
    """Fewer rows than ranks, last batches of a row, responses that end at once."""
    results = [result[kind][run] for result in runs[ranks]]
    plain = runs[ranks][0]["replicated"][run]
    for result in results:
        for name, tensor in result["weights"].items():
            assert torch.equal(tensor, results[0]["weights"][name]), name
            torch.testing.assert_close(tensor, plain["weights"][name], atol=1e-4, rtol=1e-4)
    records = results[0]["metrics"]
    assert len(records) == len(plain["metrics"])
    for record, expected in zip(records, plain["metrics"], strict=True):
        assert record == pytest.approx(expected, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("ranks", many_ranks.KINDS)
def test_they_had_nothing_to_do_and_stopped_early(runs, ranks):
    """What the runs are about did happen."""
    rows = [sum(result["replicated"]["ppo"]["rows"][:1]) for result in runs[ranks]]
    assert 0 in rows
    for record in runs[ranks][0]["replicated"]["ppo"]["metrics"]:
        assert record["optimizer_steps"] == 4  # one epoch of four: the KL was too large
        assert record["approx_kl"] > many_ranks.MAX_KL
        assert record["eos_rate"] >= 0.25


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
