"""Runs with several reward models, or with functions alone: parents, servers, slices, memory."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from support.valid_config import VALID

from rlhf.config.load import load_config
from rlhf.core.digest import digest_file
from rlhf.errors import ConfigError
from rlhf.pipeline import parents
from rlhf.pipeline.following import following
from rlhf.pipeline.jobs import job_resources, launch_options
from rlhf.pipeline.needs import longest_scored
from rlhf.pipeline.plan import plan, planned_jobs
from rlhf.pipeline.server_memory import server_gb
from rlhf.pipeline.slices import canonical_slice, config_slice

SEVERAL = [{"ensemble": ["b", "a"]}, {"model": "helpful", "weight": 0.5}]


def config(reward, cluster=None, **changes):
    values = copy.deepcopy(VALID)
    source = {"random": {"hidden_size": 1024, "layers": 8, "heads": 8, "vocab_size": 512,
                         "tokenizer_text": "demo.jsonl"}}  # fmt: skip
    values["models"]["tiny"]["source"] = source
    values["reward"] |= dict.fromkeys(("a", "b"), values["reward"]["helpful"])
    values["ppo"]["final"] |= {"reward": reward} | changes
    values["evaluation"]["final"]["reward"] = "a"
    return load_config(values | {"cluster": cluster or {}})


def manifests(*artifacts):
    return [f"results/{artifact}/manifest.json" for artifact in artifacts]


def test_parents_and_stores_in_the_order_of_the_reward():
    several = config(SEVERAL)
    assert parents.parent(several, "ppo", "final", "reward") == manifests(
        "reward/b", "reward/a", "reward/helpful"
    )
    assert parents.stores(several, "ppo", "final") == manifests(
        "store/reward/b", "store/reward/a", "store/reward/helpful", "store/reference/chat"
    )
    assert parents.stores(config(SEVERAL, scoring="local"), "ppo", "final") == []
    assert parents.parent(several, "evaluation", "final", "reward") == manifests("reward/a")
    assert ("ppo", "final") in following(several, "reward", "b")
    assert {("export_store", f"reward.{name}") for name in ("a", "b", "helpful")} <= set(
        planned_jobs(several)
    )
    assert longest_scored(several, "reward", "b") == longest_scored(several, "reward", "helpful")
    assert parents.reported(several, "final", "reward") == manifests(
        "reward/b", "reward/a", "reward/helpful"
    )


def test_every_reward_model_has_a_server():
    several = config(SEVERAL)
    store = "results/store/{}/repository"
    served = "--serve reward={} --serve reward2={} --serve reward3={} --serve reference={}".format(
        *(store.format(one) for one in ("reward/b", "reward/a", "reward/helpful", "reference/chat"))
    )
    assert served in launch_options(several, "train_ppo", "final")
    one = config("helpful")
    more = [job_resources(each, "train_ppo", "final") for each in (one, several)]
    assert more[1]["mem_mb"] > more[0]["mem_mb"]
    gpus = {"gpus_per_node": 8}
    assert plan(config(SEVERAL, gpus), "train_ppo", "final").work.layout.processes == 8 - 4
    assert list(server_gb(config(SEVERAL, gpus), "ppo", "final")) == [
        "reward", "reward2", "reward3", "reference"
    ]  # fmt: skip


def test_servers_that_leave_no_gpu_are_refused():
    with pytest.raises(ConfigError, match=r"ppo\.final has 4 servers"):
        config(SEVERAL, {"gpus_per_node": 4})


def test_functions_alone_need_no_reward_model():
    alone = config({"function": "exact_match", "options": {"answer": ["x"]}})
    assert parents.parent(alone, "ppo", "final", "reward") == []
    assert parents.stores(alone, "ppo", "final") == manifests("store/reference/chat")
    options = launch_options(alone, "train_ppo", "final")
    assert "--serve reference=" in options
    assert "--serve reward" not in options
    assert ("export_store", "reward.helpful") not in planned_jobs(alone)
    assert ("ppo", "final") not in following(alone, "reward", "helpful")
    assert "functions" not in config_slice(alone, "train_ppo", "final")
    with_models = job_resources(config("helpful"), "train_ppo", "final")
    assert job_resources(alone, "train_ppo", "final")["mem_mb"] < with_models["mem_mb"]


@pytest.mark.parametrize("scoring", ["local", "triton"])
def test_memory_counts_every_model(scoring):
    cluster = {"gpus_per_node": 1, "server_gpus": 0}

    def peak(reward):
        return plan(config(reward, cluster, scoring=scoring), "train_ppo", "final").peak_gb

    alone, one, three = peak({"function": "exact_match"}), peak("helpful"), peak(SEVERAL)
    assert three - one == pytest.approx(2 * (one - alone), rel=1e-6)
    assert one > alone


def test_a_functions_files_are_in_the_slice(tmp_path, monkeypatch):
    """So that a change of the file, or of a module beside it, makes the run stale."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    file, near = Path("own/rewards.py"), Path("own/near.py")
    file.write_text("from near import score\n")
    near.write_text("def score(responses):\n    return [0.0 for _ in responses]\n")
    run = config({"function": "own/rewards.py:score"})
    before = canonical_slice(run, "train_ppo", "final")
    digests = {str(path): digest_file(path) for path in (near, file)}
    assert json.loads(before)["functions"] == digests
    for path in (file, near):
        path.write_text(path.read_text() + "# a comment\n")
        after = canonical_slice(run, "train_ppo", "final")
        assert after != before
        before = after
    assert canonical_slice(config("helpful"), "train_ppo", "final") == canonical_slice(
        config({"model": "helpful"}), "train_ppo", "final"
    )
    file.unlink()
    with pytest.raises(ConfigError, match="can't be read as Python"):
        canonical_slice(run, "train_ppo", "final")


def test_images_see_the_folders_of_functions(tmp_path, monkeypatch):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "f.py").write_text("def score(responses):\n    return []\n")
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    from rlhf.pipeline.jobs import _folders_outside

    own = config({"function": f"{folder}/f.py:score"})
    assert list(_folders_outside(own, "train_ppo", "final")) == [folder]
    assert list(_folders_outside(config("helpful"), "train_ppo", "final")) == []
