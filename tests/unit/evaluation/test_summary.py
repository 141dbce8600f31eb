from __future__ import annotations

import json
from dataclasses import replace

import pytest

from rlhf.core.digest import canonical_json
from rlhf.evaluation.summary import ModelSamples, summarize

GROUPS = ["a", "a", "b", "b"]


def samples(rewards: list[float]) -> ModelSamples:
    return ModelSamples(
        rewards=rewards,
        lengths=[2, 4, 6, 8],
        ended=[True, True, True, False],
        kl=[0.0, 1.0, 2.0, 3.0],
        token_ids=[[1, 2], [1, 2, 3, 4], [1, 1, 1, 1, 1, 1], [1, 2, 3, 4, 5, 6, 7, 8]],
        groups=GROUPS,
    )


def test_exact_content() -> None:
    found = summarize({"sft": samples([0, 0, 0, 0]), "ppo": samples([1, 1, 3, -1])}, seed=1)
    assert list(found) == ["models", "comparisons"]
    assert found["models"]["ppo"] == {
        "reward": {"mean": 1.0, "low": 1.0, "high": 1.0},  # both prompts have the mean 1
        "kl": 1.5,
        "response_length": 5.0,
        "eos_rate": 0.75,
        "repetition": pytest.approx(0.75 / 4),
        "prompts": 2,
        "samples": 4,
    }
    assert list(found["comparisons"]) == ["ppo_vs_sft"]
    comparison = found["comparisons"]["ppo_vs_sft"]
    assert comparison["reward_difference"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert comparison["win_rate"] == {"mean": 0.75, "low": 0.5, "high": 1.0}


def test_is_json_and_reproducible() -> None:
    models = {"base": samples([0, 2, 1, 4]), "sft": samples([1, 2, 3, 4])}
    first, second = summarize(models, seed=5), summarize(models, seed=5)
    assert json.loads(canonical_json(first)) == second


def test_every_pair_is_named_later_against_earlier() -> None:
    one = samples([1, 2, 3, 4])
    found = summarize({"base": one, "sft": one, "ppo": one}, seed=0)
    assert set(found["comparisons"]) == {"sft_vs_base", "ppo_vs_base", "ppo_vs_sft"}
    assert found["comparisons"]["ppo_vs_base"]["win_rate"]["mean"] == 0.5


def test_a_rival_changes_no_figures() -> None:
    one, other = samples([1, 2, 3, 4]), samples([4, 1, 0, 9])
    alone = summarize({"sft": one}, seed=3)
    assert alone["comparisons"] == {}
    assert summarize({"sft": one, "ppo": other}, seed=3)["models"]["sft"] == alone["models"]["sft"]


def test_other_prompts_are_refused() -> None:
    one = samples([1, 2, 3, 4])
    with pytest.raises(ValueError, match="ppo and sft did not answer the same prompts"):
        summarize({"sft": one, "ppo": replace(one, groups=["b", "b", "a", "a"])}, seed=0)


def test_lengths_within_a_model() -> None:
    with pytest.raises(ValueError, match="sft: 4 rewards but 3 kl"):
        summarize({"sft": replace(samples([1, 2, 3, 4]), kl=[1.0, 2.0, 3.0])}, seed=0)


def test_a_gold_reward_model_has_figures_of_its_own() -> None:
    """Checklist 38"""
    gold = replace(samples([0, 0, 0, 0]), gold=[4, 4, 4, 4])
    found = summarize({"sft": gold, "ppo": replace(samples([1, 1, 3, -1]), gold=[1, 7, 4, 0])}, 1)
    assert found["models"]["ppo"]["gold"]["mean"] == 3.0
    assert found["models"]["ppo"]["reward"]["mean"] == 1.0
    compared = found["comparisons"]["ppo_vs_sft"]
    assert compared["gold_difference"]["mean"] == -1.0
    assert compared["gold_win_rate"]["mean"] == 0.375
    assert compared["win_rate"]["mean"] == 0.75
