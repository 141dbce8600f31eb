"""Runs with several seeds are plain runs, one a seed, to all that reads the configuration."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from support.valid_config import put

from rlhf.catalog import RULES
from rlhf.config.load import load_config, load_config_file
from rlhf.config.schema import Config
from rlhf.errors import ConfigError
from rlhf.pipeline import parents
from rlhf.pipeline.slices import canonical_slice, config_slice


def changed(valid: dict[str, Any], **values: Any) -> dict[str, Any]:
    values_ = copy.deepcopy(valid)
    for path, value in values.items():
        put(values_, path.replace("__", "."), value)
    return values_


def message(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(values)
    return str(caught.value)


def test_each_seed_is_a_run_and_what_names_them_all_has_one_for_each(valid) -> None:
    config = load_config(changed(valid, ppo__final__seeds=[0, 7]))
    assert list(config.ppo) == ["final-seed0", "final-seed7"]
    assert [run.seed for run in config.ppo.values()] == [0, 7]
    assert {run.sft for run in config.ppo.values()} == {"chat"}
    evaluated = {name: run.ppo for name, run in config.evaluation.items()}
    assert evaluated == {"final-seed0": "final-seed0", "final-seed7": "final-seed7"}
    assert config.evaluation["final-seed0"].seed == config.evaluation["final-seed7"].seed
    assert config.report["final"].evaluations == ["final-seed0", "final-seed7"]
    assert config.seeds == {("ppo", "final"): (0, 7), ("evaluation", "final"): (0, 7)}
    shown = parents.reported(config, "final", "ppo")
    assert shown == [parents.manifest("ppo", name) for name in config.ppo]


def test_a_seed_gets_what_a_run_with_that_seed_alone_would_get(valid) -> None:
    """Checklist 36"""
    several = load_config(changed(valid, ppo__final__seeds=[3, 4]))
    alone = load_config(changed(valid, ppo__final__seed=4))
    slices = [canonical_slice(several, "train_ppo", "final-seed4"),
              canonical_slice(alone, "train_ppo", "final")]  # fmt: skip
    assert slices[0] == slices[1]
    assert "seeds" not in slices[0]


def test_equal_seeds_are_paired_and_others_shared(valid) -> None:
    config = load_config(
        changed(valid, sft__chat__seeds=[1, 0], reward__helpful__sft="chat-seed0",
                ppo__final__seeds=[0, 1])
    )  # fmt: skip
    named = {name: (run.sft, run.model_dump()["reward"]) for name, run in config.ppo.items()}
    assert named == {
        "final-seed0": ("chat-seed0", "helpful"),
        "final-seed1": ("chat-seed1", "helpful"),
    }
    assert config.base_model("evaluation", "final-seed1") == "tiny"
    assert parents.stores(config, "ppo", "final-seed1") == [
        "results/store/reward/helpful/manifest.json",
        "results/store/reference/chat-seed1/manifest.json",
    ]


def jobs(config: Config) -> dict[tuple[str, str], tuple[Any, ...]]:
    """What decides each run's result: its slice and its parents."""
    return {
        (row.rule, name): (
            config_slice(config, row.rule, name),
            *(parents.own_parent(config, row.section, name, key) for key in row.parents),
        )
        for row in RULES.values()
        if row.section and row.rule not in ("fetch_data", "fetch_model", "report")
        for name in getattr(config, row.section)
    }


def test_one_more_seed_changes_nothing_that_is_there(valid) -> None:
    before = jobs(load_config(changed(valid, ppo__final__seeds=[0, 1])))
    after = jobs(load_config(changed(valid, ppo__final__seeds=[0, 1, 2])))
    assert {job: after[job] for job in before} == before
    assert after.keys() - before.keys() == {
        ("train_ppo", "final-seed2"), ("evaluate", "final-seed2"),
    }  # fmt: skip


def test_a_report_knows_which_runs_differ_in_their_seed_alone(valid) -> None:
    assert "seeds" not in config_slice(load_config(valid), "report", "final")
    run = valid["ppo"]["final"]
    more = changed(
        valid, ppo__final__seeds=[0, 1], rloo__other=run, rloo__unseen=run | {"seeds": [0, 1]},
        evaluation__other={"rloo": "other"},
    )  # fmt: skip
    assert config_slice(load_config(more), "report", "final")["seeds"] == {
        "ppo.final": {"final-seed0": 0, "final-seed1": 1},
        "evaluation.final": {"final-seed0": 0, "final-seed1": 1},
    }


def test_terms_of_a_reward_name_the_runs_of_their_seed(valid) -> None:
    """Alone a model is served as ever; beside others it is called the same in all metrics."""
    second = {"sft": "chat", "data": {"demo": {}}, "seeds": [0, 1]}
    alone = changed(valid, reward__second=second, grpo__own={
        "sft": "chat", "reward": "second", "data": {"demo": {}}, "seeds": [0, 1],
    })  # fmt: skip
    config = load_config(alone)
    assert config.grpo["own-seed1"].model_dump()["reward"] == "second-seed1"
    terms = [{"ensemble": ["helpful", "second"]}, "second", {"function": "exact_match"}]
    config = load_config(changed(alone, grpo__own__reward=terms, grpo__own__scoring="local"))
    for seed in (0, 1):
        run = config.grpo[f"own-seed{seed}"]
        assert [term.models for term in run.reward] == [
            ["helpful", f"second-seed{seed}"], [f"second-seed{seed}"], []
        ]  # fmt: skip
        assert [term.label for term in run.reward] == ["ensemble", "second", "exact_match"]
        assert config.parents("grpo", f"own-seed{seed}", "reward") == [
            ("reward", "helpful"), ("reward", f"second-seed{seed}"),
        ]  # fmt: skip
    assert "reward.second has seeds [0, 1]" in message(
        changed(alone, grpo__own__reward=terms, grpo__own__seeds=None)
    )


def test_one_of_the_runs_may_be_named_by_itself(valid) -> None:
    config = load_config(
        changed(valid, reward__helpful__seeds=[0, 1], ppo__final__reward="helpful-seed1")
    )
    assert config.ppo["final"].model_dump()["reward"] == "helpful-seed1"
    assert config.parent("evaluation", "final", "reward") == ("reward", "helpful-seed1")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"sft__chat__seeds": [0, 1]},
            "reward.helpful.sft: sft.chat has seeds [0, 1]; give this run the same `seeds`, or "
            "name one of its runs, such as chat-seed0",
        ),
        (
            {"reward__helpful__seeds": [0, 1], "ppo__final__seeds": [0, 2]},
            "ppo.final.seeds: seeds [0, 2] can't be paired with [0, 1] of reward.helpful, which "
            "`reward` names",
        ),
        (
            {"reward__helpful__seeds": [0, 1], "ppo__final__seeds": [0, 1]},
            "evaluation.final.reward: each seed of ppo.final has a reward model of its own; name "
            "the one that scores them all, such as helpful-seed0",
        ),
        (
            {"reward__second": {"sft": "chat", "data": {"demo": {}}, "seeds": [4, 5]},
             "evaluation__final__gold": "second"},
            "evaluation.final.gold: reward.second has seeds [4, 5], but one reward model scores "
            "all responses; name one of its runs, such as second-seed4",
        ),
        (
            {"ppo__final__seeds": [0], "ppo__final-seed0": {"sft": "chat", "reward": "helpful",
                                                            "data": {"demo": {}}}},
            "ppo.final-seed0: ppo.final has the seed 0, so a run of its own is called so",
        ),
        ({"ppo__final__seeds": []}, "ppo.final.seeds: List should have at least 1 item"),
        ({"ppo__final__seeds": [1, 1]}, "seeds [1, 1]: should be different whole numbers"),
        ({"sft__chat__seeds": [-1]}, "seeds [-1]: should be different whole numbers"),
        ({"ppo__final__seeds": [0], "ppo__final__seed": 0}, "give seed or seeds, not both"),
    ],
)  # fmt: skip
def test_what_else_is_meant_is_an_error(valid, values, expected) -> None:
    assert expected in message(changed(valid, **values))


def test_a_problem_of_all_seeds_is_said_once_with_the_line_of_the_run(valid, tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "models: {tiny: {source: {path: x}}}\n"
        "datasets: {demo: {path: demo.jsonl, format: oasst}}\n"
        "sft: {chat: {model: tiny, data: {demo: {}}}}\n"
        "reward: {helpful: {sft: chat, data: {demo: {}}}}\n"
        "ppo:\n  final:\n    sft: chat\n    reward: helpfull\n    seeds: [0, 1, 10]\n"
        "    data: {demo: {}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config_file(path)
    text = str(caught.value)
    assert text.count("there is no") == 1
    assert "line 8: ppo.final.reward: there is no reward.helpfull; did you mean 'helpful'?" in text


def test_a_gold_reward_model_is_another_one_of_the_same_tokens(valid) -> None:
    same = changed(valid, evaluation__final__gold="helpful")
    assert "evaluation.final.gold: reward.helpful scores already" in message(same)
    seen = changed(
        valid, reward__second={"sft": "chat", "data": {"demo": {}}}, ppo__final__scoring="local",
        ppo__final__reward={"ensemble": ["second", "helpful"]}, evaluation__final__gold="helpful",
        evaluation__final__reward="second",
    )  # fmt: skip
    assert "or was trained against; name one that ppo.final has not seen" in message(seen)
    other = changed(
        valid,
        models__other={"source": {"path": "models/other"}, "template": "chatml"},
        reward__gold={"model": "other", "data": {"demo": {}}},
        evaluation__final__gold="gold",
    )
    assert "come from base models that differ in template" in message(other)
    del other["models"]["other"]["template"]
    config = load_config(other)
    assert parents.own_parent(config, "evaluation", "final", "gold") == [
        parents.manifest("reward", "gold")
    ]
    assert parents.manifest("reward", "gold") in parents.reported(config, "final", "reward")
    alone = changed(other, reward__gold__adapter={"publish": "adapter"})
    read = parents.bases(load_config(alone), "evaluation", "final")
    assert parents.manifest("models", "other") in read
