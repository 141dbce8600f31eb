"""Three and four processes, of which some have nothing to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.programs import many_ranks, supervised_ranks
from support.tiny_models import run_ranks
from support.tiny_online import save_prompts

pytestmark = pytest.mark.slow

SHARDED = [(3, "fsdp"), (3, "zero3"), (4, "fsdp")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Number of processes → what each of them came to by every kind of engine."""
    folder = tmp_path_factory.mktemp("ranks")
    save_prompts(folder / "prompts")
    supervised_ranks.save_set(folder)
    script = Path(many_ranks.__file__).with_name("forked_ranks.py")
    run_ranks(script, folder, ranks=1, timeout=900)
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
