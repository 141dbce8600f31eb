"""A report on several methods, one of them with several seeds."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.synthetic_results import Results

from rlhf.errors import IntegrityError
from rlhf.evaluation.scores import write_scores
from rlhf.evaluation.statistics import mean_over_seeds
from rlhf.evaluation.summary import ModelSamples, summarize
from rlhf.reporting.comparison import compared, points
from rlhf.reporting.page import render_page
from rlhf.reporting.runs import load_runs
from rlhf.reporting.tables import write_tables

PROMPTS = [{"dataset": "demo", "id": str(i)} for i in range(12)]
SEEDS = {
    "ppo.final": {"final-seed3": 3, "final-seed4": 4},
    "evaluation.final": {"final-seed3": 3, "final-seed4": 4},
}


def samples(seed: int, gain: float, kl: float) -> ModelSamples:
    random, n = np.random.default_rng(seed), len(PROMPTS)
    return ModelSamples(
        rewards=random.normal(gain, size=n).tolist(),
        lengths=[5] * n,
        ended=[True] * n,
        kl=[kl] * n,
        token_ids=[[1, 2, 3]] * n,
        groups=list(range(n)),
        gold=random.normal(gain / 2, size=n).tolist(),
    )


def evaluated(results: Results, method: str, name: str, seed: int, gain: float, kl: float) -> None:
    """A run of two updates, and its evaluation."""
    rollouts = {"episodes": 8, "response_length": 10.0 + seed}
    offline = {"dpo": [{"step": 1, "loss": 0.7}]}
    metrics = offline.get(method) or [
        {"step": s, "reward": gain * s, "kl": 4.0 * s**2, **rollouts} for s in (1, 2)
    ]
    results.add(method, name, metrics=metrics)
    models = {"sft": samples(0, 0.0, 0.0), method: samples(seed, gain, kl)}
    manifest = results.add(
        "evaluation",
        name,
        files={"evaluation.json": summarize(models, 0), "samples.json": []},
        config={section: name if section == method else None for section in ("ppo", "rloo", "dpo")},
    )
    write_scores(manifest.parent / "scores.parquet", models, PROMPTS)


@pytest.fixture
def inputs(results: Results) -> dict[str, list[Path]]:
    evaluated(results, "ppo", "final-seed3", 3, 1.0, 4.0)
    evaluated(results, "ppo", "final-seed4", 4, 1.2, 9.0)
    evaluated(results, "dpo", "direct", 5, 0.5, 1.0)
    found = {"evaluation": ["final-seed3", "final-seed4", "direct"],
             "ppo": ["final-seed3", "final-seed4"], "dpo": ["direct"]}  # fmt: skip
    return {
        role: [results.root / role / name / "manifest.json" for name in names]
        for role, names in found.items()
    }


def test_the_table_compares_methods(inputs) -> None:
    runs = load_runs(inputs, SEEDS)
    first, second = compared(runs)
    assert (first["method"], first["run"], first["evaluation"]) == ("ppo", "final", "final")
    assert (second["method"], second["run"], second["seeds"]) == ("dpo", "direct", 1)
    assert first["seeds"] == 2
    assert first["tokens_sampled"] == (2 * 8 * 13 + 2 * 8 * 14) / 2
    assert second["tokens_sampled"] == 0
    assert first["kl"] == pytest.approx(6.5)
    rewards = [samples(3, 1.0, 4.0).rewards, samples(4, 1.2, 9.0).rewards]
    assert first["reward"] == pytest.approx(mean_over_seeds(rewards).as_dict())
    own = json.loads((inputs["evaluation"][2].parent / "evaluation.json").read_text())
    assert second["reward"] == own["models"]["dpo"]["reward"]
    assert second["gold_win_rate"] == own["comparisons"]["dpo_vs_sft"]["gold_win_rate"]


def test_every_seed_is_a_point_by_its_distance(inputs) -> None:
    found = points(load_runs(inputs, SEEDS))
    assert [(one.label, one.distance, one.hue) for one in found] == [
        ("PPO final-seed3", 2.0, 0), ("PPO final-seed4", 3.0, 0), ("DPO direct", 1.0, 1),
    ]  # fmt: skip
    own = json.loads((inputs["evaluation"][0].parent / "evaluation.json").read_text())
    against = own["comparisons"]["ppo_vs_sft"]
    assert found[0].proxy == against["reward_difference"]["mean"]
    assert found[0].gold == against["gold_difference"]["mean"]


def test_the_page_shows_methods_seeds_and_gold(inputs) -> None:
    page = render_page("methods", inputs, SEEDS)
    section = page.split('<section id="comparison">')[1].split("</section>")[0]
    rows = re.findall(
        r'<tr><th scope="row">(\w+)</th><td>(\w+)</td><td class="n">(\d)</td>', section
    )
    assert rows == [("PPO", "final", "2"), ("DPO", "direct", "1")]
    chart, trained = re.findall(r"<svg.*?</svg>", section, flags=re.S)
    drawing = ElementTree.fromstring(chart)
    classes = [one.get("class") for one in drawing.iter("circle")]
    assert classes == ["dot s0", "ring s0", "dot s0", "ring s0", "dot s1", "ring s1"]
    assert "√KL 3, reward" in chart
    lines = [one.get("class") for one in ElementTree.fromstring(trained).iter("polyline")]
    assert lines == ["line s0", "line s0"]  # both seeds of PPO; DPO has no rollouts
    assert "√KL 2\nPPO final-seed3: 1" in trained
    assert "Seeds 3, 4 on the same prompts" in page
    assert "Gold reward" in page
    curves = page.split('<section id="curves">')[1].split("</section>")[0]
    assert curves.count('<span class="of">final</span>') == 1
    assert re.findall(r"</i>(seed \d)", curves)[:2] == ["seed 3", "seed 4"]


def test_seeds_share_the_colour_of_their_metric_where_a_chart_has_several(results: Results) -> None:
    lines = [{"step": s, "loss": 2.0 - s, "validation_loss": 1.0 + s} for s in (1, 2)]
    for name in ("chat-seed0", "chat-seed1"):
        results.add("sft", name, metrics=lines)
    paths = [results.root / "sft" / f"chat-seed{seed}" / "manifest.json" for seed in (0, 1)]
    page = render_page("seeds", {"sft": paths}, {"sft.chat": {"chat-seed0": 0, "chat-seed1": 1}})
    chart = re.findall(r"<svg.*?</svg>", page, flags=re.S)[0]
    assert re.findall(r'class="line (s\d)"', chart) == ["s0", "s0", "s1", "s1"]
    assert "train, seed 1" in chart


def test_one_policy_is_not_compared(inputs) -> None:
    alone = {role: paths[:1] for role, paths in inputs.items() if role != "dpo"}
    page = render_page("one", alone, {})
    assert 'id="comparison"' not in page


def test_tables_are_for_other_programs(inputs, tmp_path: Path) -> None:
    runs = load_runs(inputs, SEEDS)
    write_tables(tmp_path / "tables", compared(runs), runs)
    for name in ("comparison", "curves"):
        read = pd.read_parquet(tmp_path / f"tables/{name}.parquet")
        text = pd.read_csv(tmp_path / f"tables/{name}.csv")
        pd.testing.assert_frame_equal(read.astype(text.dtypes), text)
    comparison = pd.read_csv(tmp_path / "tables/comparison.csv")
    assert comparison.reward[0] == compared(runs)[0]["reward"]["mean"]
    assert comparison.gold_low[0] == compared(runs)[0]["gold"]["low"]
    curves = pd.read_csv(tmp_path / "tables/curves.csv")
    rewards = curves[(curves.run == "final") & (curves.metric == "reward")]
    assert rewards[["seed", "step", "value"]].values.tolist() == [
        [3, 1, 1.0], [3, 2, 2.0], [4, 1, 1.2], [4, 2, 2.4],
    ]  # fmt: skip
    assert curves[curves.section == "dpo"].seed.isna().all()
    before = {path.name: path.read_bytes() for path in (tmp_path / "tables").iterdir()}
    write_tables(tmp_path / "tables", compared(runs), runs)
    assert {path.name: path.read_bytes() for path in (tmp_path / "tables").iterdir()} == before


def test_seeds_of_different_prompts_are_refused(inputs) -> None:
    folder = inputs["evaluation"][0].parent
    models = {"sft": samples(0, 0.0, 0.0), "ppo": samples(3, 1.0, 4.0)}
    others = [{"dataset": "demo", "id": f"other {i}"} for i in range(len(PROMPTS))]
    write_scores(folder / "scores.parquet", models, others)
    with pytest.raises(IntegrityError, match="not evaluated on the same prompts") as caught:
        load_runs(inputs, SEEDS)
    assert "final-seed3" in str(caught.value)
