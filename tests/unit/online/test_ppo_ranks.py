"""PPO with branches, a warm-up and a pretraining loss: two processes against one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.programs import ppo_ranks
from support.tiny_models import run_ranks
from support.tiny_online import save_prompts


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    save_prompts(folder / "prompts")
    ppo_ranks.save_demonstrations(folder / "demonstrations")
    run_ranks(Path(ppo_ranks.__file__), folder, timeout=200)
    ranks = [torch.load(folder / f"rank-{rank}.pt") for rank in range(2)]
    return ranks, ppo_ranks.work(folder, folder / "alone")


@pytest.mark.parametrize("kind", ["replicated", "fsdp"])
@pytest.mark.parametrize("name", ppo_ranks.settings())
def test_two_ranks_learn_what_one_process_does(found, name, kind):
    (first, second), alone = found
    mine, other, whole = (
        first[f"{name} {kind}"],
        second[f"{name} {kind}"],
        alone[f"{name} replicated"],
    )
    for record, expected in zip(mine["metrics"], whole["metrics"], strict=True):
        assert record.keys() == expected.keys()
        for figure in ("reward", "kl", "value_loss", "policy_loss", "grad_norm", "response_length"):
            assert record[figure] == pytest.approx(expected[figure], rel=1e-3, abs=1e-4), figure
        if "ptx_loss" in expected:
            assert record["ptx_loss"] == pytest.approx(expected["ptx_loss"], rel=1e-3)
    for key, tensor in mine["weights"].items():
        assert torch.equal(tensor, other["weights"][key]), key
        torch.testing.assert_close(tensor, whole["weights"][key], atol=1e-3, rtol=0, msg=key)


@pytest.mark.parametrize("kind", ["replicated", "fsdp"])
@pytest.mark.parametrize("name", ppo_ranks.settings())
def test_of_the_policy_no_byte_changes_in_the_warm_up(found, name, kind):
    mine = found[0][0][f"{name} {kind}"]
    moved = {
        key for key, tensor in mine["warmed"].items() if not torch.equal(tensor, mine["start"][key])
    }
    assert moved
    assert all(key.startswith("value.") for key in moved)
    later = {
        key
        for key, tensor in mine["weights"].items()
        if not torch.equal(tensor, mine["warmed"][key])
    }
    assert any(key.startswith("policy.model.") for key in later)
    assert not any(key.startswith("policy.start.") for key in later), "the reference stays"
    assert ("ptx_loss" in mine["metrics"][1]) == (name == "mixed")
    assert "ptx_loss" not in mine["metrics"][0]
