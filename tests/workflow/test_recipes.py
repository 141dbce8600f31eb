"""Every recipe is valid, plans all its jobs, and runs from fetch to report with tiny models."""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import re
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from support.projects import REPOSITORY, Project
from support.recipes import RECIPES, Job, dry_run, expected_jobs, read, run_stages, tiny

from rlhf.catalog import RULES
from rlhf.config.load import load_config_file
from rlhf.config.registry import is_known
from rlhf.serving.process import free_port
from rlhf.training.metrics import read_jsonl

# Stores are made and checked by a real Triton, which takes 20 s: for one recipe, whose judge is
# the odd one out (OPT 350M). Triton in PPO's loop is tested elsewhere.
WITH_STORES = {"deepspeed-chat-opt-1.3b"}
# Large models train in two processes, by the engines that their recipes name.
IN_TWO_PROCESSES = {
    "deepspeed-chat-opt-13b", "deepspeed-chat-opt-66b", "llama-3.1-8b", "openassistant-llama-30b",
    "openassistant-pythia-12b", "trlx-hh-20b",
}  # fmt: skip

# Other recipes have their architectures, engines and stages.
SLOW = IN_TWO_PROCESSES - {"llama-3.1-8b"} | {"simple-rlhf-opt", "trlx-hh-125m", "trlx-hh-1b"}
RUN = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in RECIPES]

DEEPSPEED = {"zero1", "zero2", "zero3"}


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Job]]:
    """The jobs of a recipe, which Snakemake is asked for once."""
    project = Project.clone(tmp_path_factory.mktemp("recipes") / "project")
    known: dict[str, list[Job]] = {}

    def jobs(name: str) -> list[Job]:
        if name not in known:
            known[name] = dry_run(project, RECIPES[name])
        return known[name]

    return jobs


@pytest.fixture(scope="module")
def clean_processes() -> Iterator[Executor]:
    """A process for each task, two at a time, with the libraries loaded already."""
    context = multiprocessing.get_context("forkserver")
    loaded = ["support.recipes", "rlhf.stages.online", "rlhf.evaluation.held_out", "datasets"]
    loaded += ["torch.utils.tensorboard", "deepspeed.runtime.zero.stage3"]
    context.set_forkserver_preload(loaded)
    with ProcessPoolExecutor(2, context, max_tasks_per_child=1) as pool:
        yield pool


def test_there_are_recipes_and_the_readme_names_them_all() -> None:
    page = (REPOSITORY / "config/recipes/README.md").read_text()
    assert len(RECIPES) >= 17
    assert re.findall(r"^\| `([^`]+)` \|", page, re.M) == sorted(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_it_is_valid_and_says_where_its_values_come_from(name: str) -> None:
    config = load_config_file(RECIPES[name])
    text = RECIPES[name].read_text()
    assert text.startswith("# yaml-language-server: $schema=../schema.json\n")
    assert re.search(r"^# Values: .*\w+/[\w-]+", text, re.M)
    assert all(is_known(dataset.registry or "") for dataset in config.datasets.values())
    sections = (config.sft, config.reward, config.ilql, config.ppo)
    used = [run.data for runs in sections for run in runs.values()]
    assert {dataset for data in used for dataset in data} == set(config.datasets)
    starts = [run.model for runs in (config.sft, config.reward) for run in runs.values()]
    assert {*starts} - {None} == set(config.models)
    assert config.cluster.gpus_per_node
    said = {"model_billions", "gpus_per_node", "gpu_memory_gb"}
    assert said <= config.cluster.model_fields_set


@pytest.mark.parametrize("name", RECIPES)
def test_a_dry_run_plans_all_that_it_names(name: str, planned: Callable[[str], list[Job]]) -> None:
    jobs = [(job.rule, *job.wildcards) for job in planned(name)]
    assert sorted(jobs) == sorted(expected_jobs(load_config_file(RECIPES[name])))


@pytest.mark.parametrize("name", RUN)
def test_it_runs(
    name: str, planned: Callable[[str], list[Job]], clean_processes: Executor, tmp_path: Path
) -> None:
    """Every stage, in process, with the arguments that Snakemake gives it but for its slice."""
    jobs = planned(name)
    if name not in WITH_STORES:
        jobs = [job for job in jobs if not job.rule.startswith("export")]
    config = tiny(read(RECIPES[name]), tmp_path)
    ranks = 2 if name in IN_TWO_PROCESSES else 1

    def alone(job: Job) -> bool:
        """DeepSpeed keeps the group of processes that it has seen first."""
        return RULES[job.rule].trains and (ranks > 1 or bool(DEEPSPEED & {*job.command}))

    for apart, group in itertools.groupby(jobs, alone):
        stages = [job.stage(config) for job in group]
        for several in [[one] for one in stages] if apart else [stages]:
            run_ranks(clean_processes, tmp_path, several, ranks if apart else 1)
    results = tmp_path / "results"
    manifests = [json.loads(path.read_text()) for path in results.rglob("manifest.json")]
    assert len(manifests) == len(jobs)
    asked = {word for job in jobs for word in job.command}
    assert ranks == 1 or asked & DEEPSPEED
    trained = [one["facts"]["processes"] for one in manifests if RULES[one["stage"]].trains]
    assert set(trained) == {ranks}
    metrics = [value for one in manifests for value in flat(one["metrics"])]
    assert metrics
    assert all(map(math.isfinite, metrics))
    for run in config.ilql:
        metrics = read_jsonl(results / f"ilql/{run}/metrics.jsonl")
        assert {"q_loss", "validation_accuracy"} <= {name for one in metrics for name in one}
        assert (results / f"ilql/{run}/model/heads.safetensors").is_file()
    for run in config.ppo:
        assert len(read_jsonl(results / f"ppo/{run}/metrics.jsonl")) == 2
        assert (results / f"report/{run}/report.html").is_file()


def run_ranks(pool: Executor, folder: Path, stages: list[list[str]], ranks: int) -> None:
    """Run stages in as many processes, each of which runs all of them."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
    futures = [
        pool.submit(run_stages, folder, stages, **shared, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank in range(ranks)
    ]
    wait(futures, timeout=1800, return_when=FIRST_EXCEPTION)
    for future in sorted(futures, key=Future.done, reverse=True):
        future.result(timeout=60)


def flat(values: Any) -> list[float]:
    """All numbers in nested mappings and lists."""
    if isinstance(values, dict | list):
        inner = values.values() if isinstance(values, dict) else values
        return [number for one in inner for number in flat(one)]
    return [values] if isinstance(values, int | float) else []
