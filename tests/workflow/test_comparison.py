"""The comparison of methods: the same budget for all, and a whole run with tiny models."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pandas as pd
import pytest
import yaml
from support.projects import REPOSITORY, Project
from support.recipes import dry_run, expected_jobs, read, run_stages, tiny

from rlhf.catalog import EVALUATED, ONLINE
from rlhf.config.load import load_config, load_config_file

COMPARISONS = sorted((REPOSITORY / "config/comparisons").glob("*.yaml"))


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_methods_have_one_start_one_budget_and_the_same_seeds(path: Path) -> None:
    config = load_config_file(path)
    policies = {
        (section, name): run
        for section in EVALUATED
        for name, run in getattr(config, section).items()
    }
    assert {run.sft for run in policies.values()} == {"chat"}
    seeds = {section: seeds for (section, _), seeds in config.seeds.items()}
    assert {seeds[section] for section, _ in policies} == {(0, 1, 2)}
    online = [run for (section, _), run in policies.items() if section in ONLINE]
    assert all(run.reward == online[0].reward for run in online)
    budgets = {
        (run.updates * run.rollout_batch_size, run.sampling.max_new_tokens) for run in online
    }
    assert len(budgets) == 1
    assert len({run.kl.model_dump_json() for run in online}) == 1
    judged = {(one.reward, one.gold, one.max_prompts) for one in config.evaluation.values()}
    assert len(judged) == 1
    assert {one.policy for one in config.evaluation.values()} == policies.keys()


@pytest.mark.slow
def test_a_comparison_runs_with_tiny_models(tmp_path: Path) -> None:
    """PPO with two seeds, the others with one, from fetch to the report's tables."""
    values = read(COMPARISONS[0])
    for section in EVALUATED:
        for run in values.get(section, {}).values():
            run["seeds"] = [0, 1] if section == "ppo" else [0]
    project = Project.clone(tmp_path / "project")
    few = "config/comparisons/few.yaml"
    (project.folder / few).write_text(yaml.safe_dump(values))
    jobs = dry_run(project, REPOSITORY / few)
    assert sorted((job.rule, *job.wildcards) for job in jobs) == sorted(
        expected_jobs(load_config(values))
    )
    config = tiny(values, tmp_path)
    stages = [job.stage(config) for job in jobs if job.rule != "export_store"]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.recipes", "rlhf.stages.online", "datasets"])
    rank = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}
    process = context.Process(target=run_stages, args=(tmp_path, stages), kwargs=rank)
    process.start()
    process.join(600)
    assert process.exitcode == 0

    results = tmp_path / "results"
    table = pd.read_csv(results / "report/methods/tables/comparison.csv").set_index("method")
    assert table.seeds.to_dict() == {"ppo": 2, "rloo": 1, "dpo": 1}
    assert table.tokens_sampled["dpo"] == 0
    assert (table.tokens_sampled[["ppo", "rloo"]] > 0).all()
    assert (table.reward_low <= table.reward).all()
    assert table[["gold", "gold_win_rate", "kl"]].notna().all(axis=None)
    scores = {
        path.parent.name: pd.read_parquet(path)
        for path in results.glob("evaluation/*/scores.parquet")
    }
    assert scores.keys() == {"ppo-seed0", "ppo-seed1", "rloo-seed0", "dpo-seed0"}
    starts = [one[one.model == "sft"].reset_index(drop=True) for one in scores.values()]
    for other in starts[1:]:
        pd.testing.assert_frame_equal(other, starts[0])  # the same prompts, the same draws
    first, second = (scores[f"ppo-seed{seed}"] for seed in (0, 1))
    assert not first.equals(second)
    assert (first.gold != first.reward).any()
    curves = pd.read_parquet(results / "report/methods/tables/curves.parquet")
    assert set(curves[(curves.section == "ppo") & (curves.metric == "kl")].seed) == {0, 1}
    page = (results / "report/methods/report.html").read_text()
    assert 'id="comparison"' in page
    assert "Seeds 0, 1 on the same prompts" in page
