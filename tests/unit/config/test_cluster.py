import shlex

import pytest
from support.valid_config import put

from rlhf.config.load import load_config
from rlhf.errors import ConfigError
from rlhf.pipeline.jobs import (
    images_id,
    job_resources,
    launch_options,
    plugin_resources,
    resource_names,
    training_options,
)
from rlhf.pipeline.resources import least_seconds, stage_resources
from rlhf.pipeline.slices import canonical_slice
from rlhf.sources.locks import VARIABLE


def resources(valid, rule, name="final", **cluster):
    return stage_resources(load_config(valid | {"cluster": cluster}), rule, name)


def test_a_node_of_eight_gpus_is_split_six_one_one(valid):
    ppo = resources(valid, "train_ppo", gpus_per_node=8)
    assert (ppo.processes, ppo.servers, ppo.server_gpus) == (6, 2, 1)
    assert resources(valid, "train_sft", gpus_per_node=8).processes == 8


def test_servers_may_share_the_gpus(valid):
    ppo = resources(valid, "train_ppo", gpus_per_node=1, server_gpus=0)
    assert (ppo.gpus, ppo.processes, ppo.server_gpus) == (1, 1, 0)


def test_a_run_that_scores_for_itself_has_all_gpus(valid):
    valid["ppo"]["alone"] = valid["ppo"]["final"] | {"scoring": "local"}
    alone, served = (
        resources(valid, "train_ppo", name, gpus_per_node=8) for name in ("alone", "final")
    )
    assert (alone.processes, alone.servers) == (8, 0)
    assert served.processes == 6
    alone, served = (
        resources(valid, "train_ppo", name, processes_per_node=8) for name in ("alone", "final")
    )
    assert alone.mem_mb > served.mem_mb


def test_a_sampler_is_one_more_server(valid):
    """But no model that a rank would have to hold itself."""
    put(valid, "ppo.sampled", valid["ppo"]["final"] | {"sampling": {"sampler": "vllm"}})
    put(valid, "runtime.containers", "apptainer")
    plain, sampled = (
        resources(valid, "train_ppo", name, gpus_per_node=8) for name in ("final", "sampled")
    )
    assert (sampled.processes, sampled.servers, sampled.samplers) == (5, 2, 1)
    assert (plain.processes, plain.samplers) == (6, 0)
    assert sampled.cpus == plain.cpus
    assert sampled.mem_mb > resources(valid, "train_ppo", gpus_per_node=7).mem_mb
    config = load_config(put(valid, "cluster", {"gpus_per_node": 8}))
    options = launch_options(config, "train_ppo", "sampled")
    longest = config.tokenization.prompt.max_length + 64
    expected = "--sampler results/sft/chat/model --sampler-dtype bfloat16 --sampler-length "
    assert f"{expected}{longest}" in options
    assert "--sample-image images/sample-" in options
    assert "+sample-" in images_id(config, "train_ppo", "sampled")
    for words in ("--sampler", "--sample-image"):
        assert words not in launch_options(config, "train_ppo", "final")
    put(valid, "ppo.sampled.scoring", "local")
    config = load_config(valid)
    assert stage_resources(config, "train_ppo", "sampled").processes == 7
    options = launch_options(config, "train_ppo", "sampled")
    assert "--server-threads" in options
    assert "--serve" not in options.replace("--server", "")


def test_without_gpus_the_ranks_are_said(valid):
    ppo = resources(valid, "train_ppo", processes_per_node=3)
    assert (ppo.gpus, ppo.processes, ppo.server_gpus) == (0, 3, 0)
    assert ppo.cpus == 3 * 2 + 2 * 2


@pytest.mark.parametrize(
    ("rule", "gpus"),
    [("fetch_model", 0), ("tokenize", 0), ("export_store", 1), ("evaluate", 1)],
)
def test_only_training_spreads(valid, rule, gpus):
    name = "reference.chat" if rule == "export_store" else "final"
    asked = resources(valid, rule, name, nodes=4, gpus_per_node=8)
    assert (asked.nodes, asked.processes, asked.gpus) == (1, 1, gpus)


def test_tokenization_has_a_core_for_each_thread(valid):
    assert resources(valid | {"runtime": {"threads": 6}}, "tokenize").cpus == 6


def test_memory_and_time_follow_the_size(valid):
    small = resources(valid, "train_sft", gpus_per_node=8, model_billions=1)
    large = resources(valid, "train_sft", gpus_per_node=8, model_billions=1.5)
    assert small.mem_mb < large.mem_mb
    assert small.runtime < large.runtime
    assert resources(valid, "train_sft", model_billions=70).runtime == 24 * 60
    assert resources(valid, "tokenize", model_billions=70).runtime == 4 * 60


def test_one_stage_asks_for_something_else(valid):
    own = {"nodes": 2, "gpus_per_node": 4, "cpus": 64, "memory_gb": 500, "hours": 48}
    ppo = resources(valid, "train_ppo", gpus_per_node=8, stages={"train_ppo": own})
    assert (ppo.nodes, ppo.gpus, ppo.processes) == (2, 4, 2)
    assert (ppo.cpus, ppo.mem_mb, ppo.runtime) == (64, 500_000, 48 * 60)
    assert resources(valid, "train_sft", gpus_per_node=8, stages={"train_ppo": own}).gpus == 8


def test_a_limit_is_never_rounded_to_nothing(valid):
    assert resources(valid, "tokenize", stages={"tokenize": {"hours": 0.001}}).runtime == 1


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ({"gpus_per_nod": 1}, "cluster.gpus_per_nod: unknown key; did you mean 'gpus_per_node'?"),
        (
            {"stages": {"train_pp": {}}},
            "cluster.stages.train_pp: unknown key; did you mean 'train_ppo'?",
        ),
        (
            {"stages": {"evaluate": {"gpuss": 1}}},
            "cluster.stages.evaluate.gpuss: unknown key; did you mean",
        ),
        (
            {"stages": {"tokenize": {"nodes": 2}}},
            "cluster.stages.tokenize.nodes: only train_sft, train_reward",
        ),
        (
            {"stages": {"tokenize": {"gpus_per_node": 1}}},
            "cluster.stages.tokenize.gpus_per_node: this stage has no work for a GPU",
        ),
        (
            {"gpus_per_node": 2},
            "cluster.server_gpus: ppo.final has 2 servers; with 1 each they leave none of 2 GPUs",
        ),
    ],
)
def test_what_can_not_be(valid, cluster, expected):
    with pytest.raises(ConfigError) as caught:
        load_config(valid | {"cluster": cluster})
    assert expected in str(caught.value)


def test_pages_need_a_gpu(valid):
    put(valid, "ppo.final.sampling.sampler", "cached")
    with pytest.raises(ConfigError, match=r"ppo\.final\.sampling\.sampler: `cached` keeps"):
        load_config(valid)
    assert load_config(put(valid, "cluster.gpus_per_node", 8))


def test_a_sampler_runs_no_code_of_a_model(valid):
    put(valid, "models.tiny.trust_remote_code", True)
    put(valid, "ppo.final.sampling.sampler", "vllm")
    with pytest.raises(ConfigError, match=r"does not run the code that models\.tiny brings"):
        load_config(valid)


@pytest.mark.parametrize(
    ("path", "adapter", "problem"),
    [
        ("ppo.final", {"kind": "prefix", "publish": "adapter"}, "not from a prefix"),
        ("ppo.final", {"quantize": "nf4", "publish": "adapter"}, "not from weights of 4 bits"),
        ("sft.chat", {"publish": "adapter"}, r"write sft\.chat\.adapter\.publish: model"),
    ],
)
def test_a_sampler_takes_whole_weights(valid, path, adapter, problem):
    put(valid, "cluster.gpus_per_node", 8)
    put(valid, "ppo.final.scoring", "local")
    put(valid, f"{path}.adapter", adapter)
    load_config(valid)
    put(valid, "ppo.final.sampling.sampler", "vllm")
    with pytest.raises(ConfigError, match=problem):
        load_config(valid)


@pytest.mark.parametrize("rule", ["tokenize", "train_sft", "train_ppo", "evaluate"])
@pytest.mark.parametrize("cluster", [{}, {"gpus_per_node": 8}, {"gpus_per_node": 8, "nodes": 2}])
def test_every_job_of_a_rule_names_the_same_resources(valid, rule, cluster):
    valid["ppo"]["alone"] = valid["ppo"]["final"] | {"scoring": "local"}
    config = load_config(valid | {"cluster": cluster})
    for name in ("chat",) if rule == "train_sft" else ("final", "alone"):
        assert list(job_resources(config, rule, name)) == resource_names(config, rule)


def test_deterministic_kernels_are_asked_of_the_stage_and_make_nothing_stale(valid):
    plain, strict = load_config(valid), load_config(put(valid, "runtime.deterministic", True))
    asked = training_options(strict, "train_sft", "chat")
    assert asked == training_options(plain, "train_sft", "chat") + " --deterministic"
    slices = (canonical_slice(config, "train_sft", "chat") for config in (plain, strict))
    assert next(slices) == next(slices)


def test_gpus_of_a_type(valid):
    one = resources(valid, "train_sft", gpus_per_node=8)
    assert plugin_resources(one, "h200") == plugin_resources(one) | {"gpu_model": "h200"}
    two = resources(valid, "train_sft", gpus_per_node=8, nodes=2)
    assert plugin_resources(two)["gres"] == "gpu:8"
    assert plugin_resources(two, "h200")["gres"] == "gpu:h200:8"


def test_a_time_limit_has_room_for_the_margin_and_a_save(valid):
    config = load_config(put(valid, "cluster", {"save_margin_seconds": 100, "model_billions": 2}))
    assert least_seconds(config) == 132


def test_images_are_named_to_the_launcher(valid):
    config = load_config(put(valid, "runtime.containers", "apptainer"))
    sft, ppo, store = (
        launch_options(config, rule, *names)
        for rule, *names in [
            ("train_sft", "chat"),
            ("train_ppo", "final"),
            ("export_store", "reward", "helpful"),
        ]
    )
    assert "--image images/train-" in sft
    assert "--serve-image" not in sft
    assert "--image images/train-" in ppo
    assert "--serve-image images/serve-" in ppo
    assert "--image images/serve-" in store


def test_an_image_sees_a_dataset_outside_of_the_project(valid, tmp_path, monkeypatch):
    rows = tmp_path / "shared data" / "rows.jsonl"
    rows.parent.mkdir()
    rows.write_text("")
    put(valid, "datasets.demo.path", str(rows))
    config = load_config(put(valid, "runtime.containers", "apptainer"))
    assert f"--bind '{rows.parent}'" in launch_options(config, "fetch_data", "demo")
    source = {"source": {"url": rows.as_uri()}, "format": "oasst"}
    elsewhere = load_config(
        put(put(valid, "runtime.containers", "apptainer"), "datasets.x", source)
    )
    monkeypatch.setenv(VARIABLE, str(tmp_path / "configs/mine.yaml"))  # its lock is beside it
    options = launch_options(elsewhere, "fetch_data", "x")
    assert f"--bind '{rows.parent}' --bind {shlex.quote(f'{tmp_path}/configs')}" in options
    config = load_config(put(valid, "runtime.containers", "none"))
    assert "--bind" not in launch_options(config, "fetch_data", "demo")
