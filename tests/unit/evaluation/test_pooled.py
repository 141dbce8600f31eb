"""Seeds of one run are pooled response by response, on the same prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rlhf.evaluation.pooled import pool
from rlhf.evaluation.scores import read_scores, write_scores
from rlhf.evaluation.statistics import mean_over_seeds, repetition
from rlhf.evaluation.summary import ModelSamples

PROMPTS = [{"dataset": "demo", "id": name} for name in "abcd"]
SAMPLES = 2


def samples(random: np.random.Generator, shift: float, gold: bool = True) -> ModelSamples:
    n = len(PROMPTS) * SAMPLES
    return ModelSamples(
        rewards=random.normal(shift, size=n).tolist(),
        lengths=random.integers(1, 9, size=n).tolist(),
        ended=(random.random(n) < 0.5).tolist(),
        kl=random.normal(1.0, size=n).tolist(),
        token_ids=random.integers(0, 3, size=(n, 6)).tolist(),
        groups=[i // SAMPLES for i in range(n)],
        gold=random.normal(-shift, size=n).tolist() if gold else None,
    )


@pytest.fixture
def seeds(tmp_path: Path) -> list[tuple[dict[str, ModelSamples], pd.DataFrame]]:
    """Two seeds with one SFT model, and their tables as they are read back."""
    found = []
    for seed in (0, 1):
        models = {"sft": samples(np.random.default_rng(9), 0.0),
                  "ppo": samples(np.random.default_rng(seed), 1.0)}  # fmt: skip
        write_scores(tmp_path / f"{seed}.parquet", models, PROMPTS)
        found.append((models, read_scores(tmp_path / f"{seed}.parquet")))
    return found


def test_the_table_holds_every_response(seeds) -> None:
    models, table = seeds[1]
    assert list(table.columns) == [
        "model", "prompt", "dataset", "id", "reward", "gold", "kl", "length", "ended", "repetition",
    ]  # fmt: skip
    own = table[table.model == "ppo"]
    assert own.reward.tolist() == models["ppo"].rewards
    assert own.gold.tolist() == models["ppo"].gold
    assert own.id.tolist() == list("aabbccdd")
    assert own.repetition.tolist() == [repetition(ids) for ids in models["ppo"].token_ids]
    assert own.ended.tolist() == models["ppo"].ended


def test_means_are_of_seeds_and_prompts(seeds) -> None:
    found = pool([table for _, table in seeds])
    rewards = np.array([models["ppo"].rewards for models, _ in seeds])  # [S, n]
    cells = rewards.reshape(2, len(PROMPTS), SAMPLES).mean(axis=2)
    assert found["models"]["ppo"]["reward"] == pytest.approx(mean_over_seeds(cells).as_dict())
    assert found["models"]["ppo"]["samples"] == 16
    assert found["models"]["ppo"]["prompts"] == 4
    assert found["models"]["ppo"]["kl"] == pytest.approx(
        np.mean([models["ppo"].kl for models, _ in seeds])
    )
    sft = np.array(seeds[0][0]["sft"].rewards)
    wins = (rewards > sft).reshape(2, len(PROMPTS), SAMPLES).mean(axis=2)
    compared = found["comparisons"]["ppo_vs_sft"]
    assert compared["win_rate"]["mean"] == pytest.approx(wins.mean())
    assert 0 <= compared["win_rate"]["low"] <= compared["win_rate"]["high"] <= 1
    assert compared["reward_difference"]["mean"] == pytest.approx((rewards - sft).mean())
    gold = np.array([np.subtract(m["ppo"].gold, m["sft"].gold) for m, _ in seeds])
    assert compared["gold_difference"]["mean"] == pytest.approx(gold.mean())


def test_only_the_same_prompts_are_pooled(seeds) -> None:
    first, second = (table for _, table in seeds)
    with pytest.raises(ValueError, match="not evaluated on the same prompts"):
        pool([first, second.assign(id=second.id.replace("a", "z"))])


def test_without_gold_there_are_no_figures_of_it(seeds) -> None:
    found = pool([table.drop(columns="gold") for _, table in seeds])
    assert "gold" not in found["models"]["ppo"]
    assert set(found["comparisons"]["ppo_vs_sft"]) == {"win_rate", "reward_difference"}
