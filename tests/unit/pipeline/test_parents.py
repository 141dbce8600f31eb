"""What each artifact is made from, by the configuration."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from support.valid_config import VALID, put

from rlhf.config.load import load_config
from rlhf.config.schema import Config
from rlhf.pipeline import parents
from rlhf.pipeline.following import following, rows_needed


def config(**changes: Any) -> Config:
    """Two base models, two datasets, two chains of runs; the second scores in-process."""
    values = copy.deepcopy(VALID)
    values["models"]["large"] = values["models"]["tiny"]
    values["datasets"]["more"] = values["datasets"]["demo"]
    values["sft"]["early"] = {"model": "large", "data": {"more": {}, "demo": {}}}
    values["sft"]["late"] = {"sft": "early", "data": {"more": {}}}
    values["ppo"]["local"] = {
        "sft": "late", "reward": "helpful", "data": {"more": {}}, "scoring": "local",
        "duplicates": {"remove": "near"},
    }  # fmt: skip
    values["evaluation"]["local"] = {"ppo": "local"}
    values["report"]["both"] = {"evaluations": ["final", "local"]}
    for key, value in changes.items():
        put(values, key.replace("__", "."), value)
    return load_config(values)


def manifests(*artifacts: str) -> list[str]:
    return [f"results/{artifact}/manifest.json" for artifact in artifacts]


@pytest.mark.parametrize(
    ("run", "artifact"),
    [
        (("sft", "chat"), "models/tiny"),
        (("sft", "late"), "sft/early"),
        (("reward", "helpful"), "sft/chat"),
        (("ppo", "local"), "sft/late"),
        (("evaluation", "local"), "ppo/local"),
    ],
)
def test_a_run_starts_from_a_base_model_or_a_run(run: tuple[str, str], artifact: str) -> None:
    assert [parents.start(config(), *run)] == manifests(artifact)


@pytest.mark.parametrize(
    ("section", "key", "artifact"),
    [
        ("ppo", "reward", "reward/helpful"),
        ("ppo", "sft", "sft/late"),
        ("evaluation", "ppo", "ppo/local"),
        ("evaluation", "reward", "reward/helpful"),
        ("evaluation", "sft", "sft/late"),
    ],
)
def test_parents_are_those_of_a_run_or_of_the_run_it_evaluates(
    section: str, key: str, artifact: str
) -> None:
    assert parents.parent(config(), section, "local", key) == manifests(artifact)


def test_an_evaluation_may_have_a_reward_model_of_its_own() -> None:
    changed = config(
        reward__second={"sft": "chat", "data": {"demo": {}}}, evaluation__local__reward="second"
    )
    assert parents.parent(changed, "evaluation", "local", "reward") == manifests("reward/second")
    assert parents.parent(changed, "ppo", "local", "reward") == manifests("reward/helpful")
    both = parents.reported(changed, "both", "reward")
    assert both == manifests("reward/helpful", "reward/second")
    assert ("evaluation", "local") in following(changed, "reward", "second")


def test_the_base_model_is_at_the_end_of_all_starts() -> None:
    assert [parents.base(config(), "evaluation", "local")] == manifests("models/large")


def test_sets_are_of_the_view_that_a_stage_reads_and_of_the_model_a_run_goes_back_to() -> None:
    assert parents.tokenized(config(), "sft", "early") == manifests(
        "tokenized/conversation/large/more", "tokenized/conversation/large/demo"
    )
    preferences = parents.tokenized(config(), "reward", "helpful")
    assert preferences == manifests("tokenized/preference/tiny/demo")
    demonstrations = parents.tokenized(config(), "reward", "helpful", "demonstrations")
    assert demonstrations == manifests("tokenized/conversation/tiny/demo")
    prompts = parents.tokenized(config(), "evaluation", "local", "prompts")
    assert prompts == parents.tokenized(config(), "ppo", "local")
    assert prompts == manifests("tokenized/prompt/large/more")


def test_rows_are_those_of_the_datasets() -> None:
    assert parents.rows(config(), "sft", "early") == manifests("datasets/more", "datasets/demo")
    assert parents.rows(config(), "evaluation", "local") == manifests("datasets/more")


def test_only_a_run_that_leaves_rows_out_has_a_list_of_them() -> None:
    assert parents.duplicates(config(), "sft", "chat") == []
    assert parents.duplicates(config(), "evaluation", "local") == []
    assert parents.duplicates(config(), "ppo", "local") == manifests("duplicates/ppo.local")


def test_stores_serve_a_run_that_does_not_score_in_process() -> None:
    assert parents.stores(config(), "ppo", "local") == []
    served = parents.stores(config(), "ppo", "final")
    assert served == manifests("store/reward/helpful", "store/reference/chat")
    assert [parents.stored("reference", "chat")] == manifests("sft/chat")
    assert [parents.stored("reward", "helpful")] == manifests("reward/helpful")


def test_what_adapters_alone_stand_on_is_read_too() -> None:
    alone = {"publish": "adapter"}
    made = config(
        sft__early__adapter=alone, sft__late__adapter=alone, reward__helpful__adapter=alone
    )
    assert parents.bases(made, "sft", "early") == []
    assert parents.bases(made, "sft", "late") == manifests("models/large")
    chain = manifests("sft/early", "models/large")
    assert parents.bases(made, "ppo", "local") == [*chain, *manifests("sft/chat")]
    assert parents.bases(made, "evaluation", "local") == [*manifests("sft/chat"), *chain]
    assert parents.stored_bases(made, "reference", "late") == chain
    assert parents.stored_bases(made, "reward", "helpful") == manifests("sft/chat")
    assert parents.bases(config(), "ppo", "local") == []
    assert parents.stored_bases(config(), "reference", "late") == []


def test_what_is_checked_before_a_run_is_what_it_and_its_followers_need() -> None:
    assert parents.sets_to_check(config(), "sft", "late") == manifests(
        "tokenized/conversation/large/more", "tokenized/prompt/large/more"
    )
    assert parents.sets_to_check(config(), "reward", "helpful") == manifests(
        "tokenized/preference/tiny/demo",
        "tokenized/conversation/tiny/demo",
        "tokenized/prompt/tiny/demo",
        "tokenized/prompt/large/more",
    )
    assert parents.duplicates_to_check(config(), "sft", "late") == manifests("duplicates/ppo.local")


@pytest.mark.parametrize(
    ("section", "artifacts"),
    [
        ("evaluation", ["evaluation/final", "evaluation/local"]),
        ("ppo", ["ppo/final", "ppo/local"]),
        ("reward", ["reward/helpful"]),
        ("sft", ["sft/chat", "sft/late"]),
    ],
)
def test_a_report_is_about_its_evaluations_and_what_they_go_back_to(
    section: str, artifacts: list[str]
) -> None:
    assert parents.reported(config(), "both", section) == manifests(*artifacts)


def test_the_targets_are_all_runs() -> None:
    runs = ["sft/chat", "reward/helpful", "ppo/final", "evaluation/final", "report/final"]
    assert parents.targets(load_config(copy.deepcopy(VALID))) == manifests(*runs)


def test_what_is_learned_beside_the_prompts_is_a_parent() -> None:
    mixed = config(ppo__final__ptx={"data": {"more": {}}})
    sets = manifests("tokenized/conversation/tiny/more")
    assert parents.mixed(mixed, "ppo", "final") == sets
    assert parents.mixed(config(), "ppo", "final") == []
    assert set(sets) <= set(parents.sets_to_check(mixed, "sft", "chat"))
    assert rows_needed(mixed, "ppo", "final")["ppo.final.ptx"] == {
        "data": ["more"], "train": "conversation/tiny",
    }  # fmt: skip
    assert not set(sets) & set(parents.tokenized(mixed, "ppo", "final"))
