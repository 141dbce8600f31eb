"""Which engine a job gets, what does not fit, and what would."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from support.projects import REPOSITORY
from support.valid_config import put

from rlhf.config.load import load_config
from rlhf.config.schema import Config
from rlhf.errors import ClusterError, ConfigError
from rlhf.launch.options import parse as parse_launch
from rlhf.pipeline.amounts import training_flops, training_tokens
from rlhf.pipeline.jobs import job_resources, launch_options, training_options
from rlhf.pipeline.memory import CONTEXT, Model, Setting, held_bytes
from rlhf.pipeline.plan import (
    claim,
    nearest_fit,
    plan,
    planned_jobs,
)
from rlhf.pipeline.preflight import check, host_problems, own_memory_gb
from rlhf.pipeline.resources import stage_resources
from rlhf.pipeline.server_memory import large_servers, spread_servers
from rlhf.pipeline.shapes import read_shape
from rlhf.stages.stage import parse


def configuration(valid: dict[str, Any], name: str = "llama-3.1-8b", **cluster: Any) -> Config:
    put(valid, "models.tiny.source.path", f"models/{name}")
    return load_config(valid | {"cluster": cluster})


def setting(valid: dict[str, Any], name: str, rule: str = "train_sft", **cluster: Any) -> Setting:
    config = configuration(valid, name, **cluster)
    return plan(config, rule, "chat" if rule == "train_sft" else "final").setting


def test_on_cpus_auto_is_replicated_whatever_the_size(valid: dict[str, Any]) -> None:
    assert setting(valid, "opt-66b", processes_per_node=4) == Setting("replicated", 4)


def test_auto_takes_the_first_that_fits(valid: dict[str, Any]) -> None:
    node, alone = {"gpus_per_node": 8}, {"gpus_per_node": 1, "server_gpus": 0}
    assert setting(valid, "opt-350m", **node) == Setting("replicated", 8)
    assert setting(valid, "llama-3.1-8b", **node) == Setting("fsdp", 8)
    offloaded = Setting("fsdp", 1, "all", checkpointing=True)
    assert setting(valid, "llama-3.1-8b", **alone, gpu_memory_gb=141) == offloaded
    put(valid, "runtime.micro_batch_tokens", 16384)
    put(valid, "tokenization.conversation.max_length", 16384)
    assert setting(valid, "llama-3.1-8b", **node) == Setting("fsdp", 8, checkpointing=True)
    again = Setting("replicated", checkpointing=True)
    assert setting(valid, "qwen2.5-0.5b", **alone, gpu_memory_gb=40) == again
    assert setting(valid, "llama-30b", **node) == Setting("fsdp", 8, "all", checkpointing=True)


def test_adapters_alone_have_gradients_and_moments(valid: dict[str, Any]) -> None:
    put(valid, "sft.chat.adapter", {"rank": 16})
    config = configuration(valid, gpus_per_node=1, server_gpus=0)
    planned = plan(config, "train_sft", "chat")
    assert planned.fits
    assert planned.work.trained[0].trained == 41_943_040  # peft, all linear layers of Llama 3.1 8B
    assert planned.setting == Setting("replicated")


def test_frozen_weights_of_4_bits_are_planned_as_such(valid: dict[str, Any]) -> None:
    put(valid, "sft.chat.adapter", {"publish": "adapter"})
    whole = plan(configuration(valid, gpus_per_node=8, engine="replicated"), "train_sft", "chat")
    put(valid, "sft.chat.adapter.quantize", "nf4")
    narrow = plan(configuration(valid, gpus_per_node=8), "train_sft", "chat")
    shape = narrow.work.trained[0].shape
    layers = shape.layers * shape.layer_parameters
    weights = narrow.phases["training"]["weights"]
    assert weights == pytest.approx(
        0.516 * layers + 4 * shape.other_parameters - 2 * shape.head_parameters, rel=1e-3
    )
    copies = [each.phases["training"]["working copies"] for each in (whole, narrow)]
    assert copies[1] - copies[0] == 2 * shape.layer_parameters  # one at a time is widened
    assert narrow.fits
    assert narrow.setting.kind == "replicated", "other kinds would cut them"
    tight = configuration(valid, gpus_per_node=8, gpu_memory_gb=8)
    assert plan(tight, "train_sft", "chat").setting == Setting("replicated", 8, checkpointing=True)
    put(valid, "sft.chat.adapter", None)
    put(valid, "ppo.final", valid["ppo"]["final"] | {"scoring": "local", "adapter": {
        "quantize": "nf4", "publish": "adapter"}})  # fmt: skip
    online = plan(configuration(valid, gpus_per_node=8), "train_ppo", "final")
    assert online.phases["sampling"]["sampling copy"] == 0
    assert len(online.work.scoring) == 1, "the reference is the policy without its adapter"


def test_moments_of_8_bits_are_planned_as_such(valid: dict[str, Any]) -> None:
    def planned() -> Any:
        return plan(configuration(valid, gpus_per_node=8, gpu_memory_gb=80), "train_sft", "chat")

    assert planned().setting.kind == "fsdp"
    put(valid, "sft.chat.optimizer", {"kind": "adamw_8bit"})
    narrow = planned()
    assert narrow.setting.kind == "replicated", "other kinds would cut them"
    shape = narrow.work.trained[0].shape
    embeddings = shape.vocabulary * shape.hidden
    moments = narrow.phases["training"]["moments"]
    assert moments == pytest.approx(2.03 * shape.parameters + 5.97 * embeddings, rel=1e-3)
    put(valid, "sft.chat.ema", {})
    assert planned().phases["training"]["moments"] == moments + 4 * shape.parameters


def test_a_critic_may_be_trained_whole(valid: dict[str, Any]) -> None:
    values = valid["ppo"]["final"] | {"adapter": {}, "value": {"kind": "critic"}}
    put(valid, "ppo.final", values)
    for adapter in (True, False):
        put(valid, "ppo.final.value.adapter", adapter)
        policy, critic = plan(
            configuration(valid, gpus_per_node=8), "train_ppo", "final"
        ).work.trained
        assert policy.rank == 16
        assert (critic.trained == critic.parameters) == (not adapter)


def test_a_head_alone_has_next_to_no_gradients_and_moments(valid: dict[str, Any]) -> None:
    put(valid, "reward.helpful.train", "head")
    planned = plan(configuration(valid, gpus_per_node=1, server_gpus=0), "train_reward", "helpful")
    assert planned.work.trained[0].trained == 0
    assert planned.setting == Setting("replicated")


def test_branches_are_planned_as_what_they_hold(valid: dict[str, Any]) -> None:
    """k layers with their moments for a value branch; for a frozen one k layers and the head."""
    frozen = {"scoring": "local", "freeze_layers": 30}
    put(valid, "ppo.final", valid["ppo"]["final"] | frozen)
    whole = plan(configuration(valid, gpus_per_node=8), "train_ppo", "final").work
    branched = {"reference": "frozen_branch", "value": {"kind": "branch", "layers": 2}}
    put(valid, "ppo.final", valid["ppo"]["final"] | branched)
    work = plan(configuration(valid, gpus_per_node=8), "train_ppo", "final").work
    shape = whole.trained[0].shape
    assert (shape.layers, len(whole.trained)) == (32, 1)
    policy, value = work.trained
    assert policy == whole.trained[0]
    assert value.trained == value.parameters == 2 * shape.layer_parameters + shape.hidden
    judge, reference = work.scoring
    assert judge == whole.scoring[0]
    own = 2 * shape.layer_parameters + shape.hidden + shape.head_parameters
    assert reference.weight_bytes == 4 * own
    assert reference.weight_bytes < 0.25 * whole.scoring[1].weight_bytes


def test_rows_beside_the_prompts_may_be_longer(valid: dict[str, Any]) -> None:
    put(valid, "tokenization.conversation.max_length", 4096)
    lengths = []
    for ptx in (None, {"data": {"demo": {}}}):
        put(valid, "ppo.final.ptx", ptx)
        lengths.append(plan(configuration(valid), "train_ppo", "final").work.longest)
    assert lengths == [256 + 64, 4096]


def test_a_prefix_is_what_is_trained_and_its_activations_stay(valid: dict[str, Any]) -> None:
    put(valid, "sft.chat.adapter", {"kind": "prefix", "publish": "adapter", "virtual_tokens": 20})
    put(valid, "reward.helpful", valid["reward"]["helpful"] | {"sft": None, "model": "tiny"})
    put(valid, "ppo", {})
    put(valid, "evaluation", {})
    put(valid, "report", {})
    planned = plan(configuration(valid, gpus_per_node=1, server_gpus=0), "train_sft", "chat")
    assert planned.work.trained[0].trained == 20 * 32 * 2 * 8 * 128  # of Llama 3.1 8B
    assert not planned.setting.checkpointing


def test_slices_of_a_node(valid: dict[str, Any]) -> None:
    wide = {"gpus_per_node": 8, "nodes": 4, "engine": "fsdp"}
    whole, node = (plan(configuration(valid, **wide, shard=shard), "train_sft", "chat")
                   for shard in ("all", "node"))  # fmt: skip
    assert (whole.setting.ranks, node.setting.ranks) == (32, 8)
    assert node.peak_gb > whole.peak_gb


def test_what_is_said_is_taken(valid: dict[str, Any]) -> None:
    asked = {"engine": "zero3", "offload": "optimizer", "activation_checkpointing": True}
    assert setting(valid, "opt-350m", gpus_per_node=2, server_gpus=0, **asked) == Setting(
        "zero3", 2, "optimizer", checkpointing=True
    )
    own = {"train_sft": {"engine": "fsdp", "activation_checkpointing": False}}
    assert setting(valid, "opt-66b", gpus_per_node=8, stages=own) == Setting("fsdp", 8)
    other = setting(valid, "opt-350m", "train_ppo", gpus_per_node=8, stages=own)
    assert other == Setting("replicated", 6)
    offloaded = setting(valid, "opt-350m", gpus_per_node=8, offload="all")
    assert offloaded == Setting("fsdp", 8, "all")


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ({"offload": "all"}, "cluster.offload: there is no GPU whose memory 'all' could leave"),
        (
            {"gpus_per_node": 8, "engine": "replicated", "offload": "all"},
            "cluster.offload: engine replicated can't offload 'all'; auto, fsdp, zero3 can",
        ),
        (
            {"gpus_per_node": 8, "engine": "fsdp", "offload": "optimizer"},
            "cluster.offload: engine fsdp can't offload 'optimizer'; zero1, zero2, zero3 can",
        ),
        (
            {"gpus_per_node": 8, "offload": "all", "stages": {"train_sft": {"engine": "zero1"}}},
            "cluster.offload: engine zero1 can't offload 'all'",
        ),
        (
            {"gpus_per_node": 8, "stages": {"train_sft": {"engine": "zero1", "offload": "all"}}},
            "cluster.stages.train_sft.offload: engine zero1 can't offload 'all'",
        ),
        (
            {"gpus_per_node": 8, "engine": "zero3", "shard": "node"},
            "cluster.shard: engine zero3 has no slices of a node; auto, fsdp have",
        ),
        (
            {"stages": {"evaluate": {"engine": "fsdp"}}},
            "cluster.stages.evaluate.engine: only train_sft",
        ),
        ({"activation_checkpointing": "maybe"}, "cluster.activation_checkpointing"),
        ({"attention": "flex"}, "cluster.attention: flex needs GPUs; auto, sdpa, eager do not"),
        (
            {"stages": {"train_sft": {"attention": "flash"}}},
            "cluster.stages.train_sft.attention: flash needs GPUs",
        ),
        (
            {"stages": {"evaluate": {"attention": "sdpa"}}},
            "cluster.stages.evaluate.attention: only train_sft",
        ),
    ],
)
def test_what_excludes_each_other(
    valid: dict[str, Any], cluster: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(valid | {"cluster": cluster})
    assert expected in str(caught.value)


def test_true_may_be_text_on_a_command_line(valid: dict[str, Any]) -> None:
    config = load_config(valid | {"cluster": {"activation_checkpointing": "true"}})
    assert plan(config, "train_sft", "chat").setting.checkpointing is True


def test_the_stage_is_told(valid: dict[str, Any]) -> None:
    config = configuration(valid, gpus_per_node=8, engine="fsdp", shard="node", offload="all",
                           activation_checkpointing=True, attention="flex")  # fmt: skip
    told = shlex.split(training_options(config, "train_sft", "chat"))
    manifest = ["--output", "manifest", "x/manifest.json"]
    stage, _ = parse(["--name", "chat", "--config", "{}", *manifest, *told])
    assert stage.engine == plan(config, "train_sft", "chat").engine
    assert (stage.engine.kind, stage.engine.shard, stage.engine.offload) == ("fsdp", "node", "all")
    assert stage.engine.activation_checkpointing
    assert stage.engine.attention == "flex"
    plain = training_options(load_config(valid | {"cluster": {}}), "train_sft", "chat")
    assert "--engine replicated --shard all --offload none --attention auto" in plain
    assert "checkpointing" not in plain


def test_host_memory_follows_the_engine(valid: dict[str, Any]) -> None:
    def node_gb(**cluster: Any) -> float:
        config = configuration(valid, model_billions=8, **cluster)
        return stage_resources(config, "train_sft", "chat").mem_mb / 1000

    gpus = {"gpus_per_node": 8, "engine": "fsdp"}
    assert node_gb(**gpus) < 8 * 8 + 4 * 8 + 16
    offloaded = node_gb(**gpus, offload="all") - node_gb(**gpus)
    assert offloaded == pytest.approx(16 * 8, rel=0.01)
    cpus = {"processes_per_node": 4}
    assert node_gb(**cpus, engine="fsdp") < 0.4 * node_gb(**cpus)


NEAREST = [
    ("train_sft", {"engine": "replicated", "gpus_per_node": 8}, "cluster.engine: fsdp"),
    ("train_sft", {"gpus_per_node": 8, "engine": "fsdp", "activation_checkpointing": False},
     "cluster.activation_checkpointing: true"),
    ("train_ppo", {"gpus_per_node": 8, "gpu_memory_gb": 16}, "cluster.gpu_memory_gb: 24"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "cluster", "expected"), NEAREST)
def test_the_nearest_setting_that_fits(
    valid: dict[str, Any], rule: str, cluster: dict[str, Any], expected: str
) -> None:
    put(valid, "tokenization.conversation.max_length", 8192)
    put(valid, "runtime.micro_batch_tokens", 8192)
    config = configuration(valid, **cluster)
    name = "chat" if rule == "train_sft" else "final"
    planned = plan(config, rule, name)
    assert not planned.fits
    assert nearest_fit(planned) == expected
    key, _, value = expected.removeprefix("cluster.").partition(": ")
    better = configuration(valid, **cluster | {key: json.loads(f'"{value}"' if value[0] == "f"
                                                               else value)})  # fmt: skip
    assert plan(better, rule, name).fits


def test_smaller_passes_are_named(valid: dict[str, Any]) -> None:
    put(valid, "runtime.micro_batch_tokens", 65536)
    put(valid, "sft.chat.global_batch_size", 1024)
    large = {"gpus_per_node": 8, "gpu_memory_gb": 48}
    for engine, expected in (
        ("auto", "runtime.micro_batch_tokens: 16384"),
        ("fsdp", "runtime.micro_batch_tokens: 16384, cluster.offload: all"),
    ):
        planned = plan(configuration(valid, **large, engine=engine), "train_sft", "chat")
        assert nearest_fit(planned) == expected


def test_what_a_gpu_is_too_small_for_is_refused_before_it_runs(valid: dict[str, Any]) -> None:
    config = configuration(valid, "opt-13b", gpus_per_node=8, engine="replicated")
    with pytest.raises(ClusterError) as caught:
        check(config, [("train_sft", "chat")], [], "squeue", 64)
    text = str(caught.value)
    assert "train_sft chat needs about 2" in text
    assert "GB on each GPU, which has 80." in text
    assert "write cluster.engine: fsdp" in text
    assert check(config, [("train_reward", "none"), ("tokenize", "x")], [], "squeue", 64) == []


def test_what_hardly_fits_is_said(valid: dict[str, Any]) -> None:
    config = configuration(valid, "pythia-2.8b", gpus_per_node=8, engine="replicated",
                           activation_checkpointing=False, gpu_memory_gb=60)  # fmt: skip
    (note,) = check(config, [("train_sft", "chat")], [], "squeue", 64)
    assert "of a GPU's 60 GB: tight; more room with cluster." in note


def test_responses_that_have_no_room_wait(valid: dict[str, Any]) -> None:
    put(valid, "ppo.final", valid["ppo"]["final"] | {"rollout_batch_size": 1024})
    put(valid, "ppo.final.sampling", {"max_new_tokens": 8192})
    config = configuration(valid, gpus_per_node=8)
    planned = plan(config, "train_ppo", "final")
    rest = planned.phases["sampling"]
    cache = rest["KV cache"]
    assert 0.5 * 0.8 * 80e9 > cache > 0.6 * (0.8 * 80e9 - sum(rest.values()))
    row = 2 * 4 * 32 * 1024 * (config.tokenization.prompt.max_length + 8192)
    assert cache % row == 0
    put(valid, "evaluation.final.max_new_tokens", 8192)
    gpu, cpu = (
        plan(configuration(valid, gpus_per_node=gpus), "evaluate", "final").phases["sampling"]
        for gpus in (8, 0)
    )
    assert cpu["weights"] == 2 * gpu["weights"]  # float32, and bfloat16
    assert cpu["KV cache"] <= 2**33


def test_servers_have_to_fit_their_own_gpus(valid: dict[str, Any]) -> None:
    put(valid, "store.dtype", "float32")
    config = configuration(valid, "gpt-neox-20b", gpus_per_node=8)
    lines = list(large_servers(config, "ppo", "final"))
    assert [line.what.partition(" needs")[0] for line in lines] == [
        "ppo.final: the reward server",
        "ppo.final: the reference server",
    ]
    changes = "store.dtype: auto, or cluster.server_gpus: 2, or ppo.final.scoring: local"
    assert lines[0].changes == changes
    with pytest.raises(ClusterError) as caught:
        check(config, [("train_ppo", "final")], [], "squeue", 64)
    assert "ppo.final: the reference server needs 8" in str(caught.value)
    assert f"write {changes}" in str(caught.value)
    put(valid, "store.dtype", "auto")
    assert not list(large_servers(configuration(valid, "gpt-neox-20b", gpus_per_node=8), "ppo",
                                  "final"))  # fmt: skip


def test_a_store_is_checked_with_one_model_at_a_time(valid: dict[str, Any]) -> None:
    config = configuration(valid, gpus_per_node=8)
    planned = plan(config, "export_store", "reference.chat")
    (model,) = planned.work.held
    assert planned.phases == {"scoring": {"weights": 2 * model.parameters, "context": CONTEXT}}


def test_a_served_model_is_spread_where_one_gpu_is_too_small(valid: dict[str, Any]) -> None:
    large = {"gpus_per_node": 8, "server_gpus": 2}
    for size, spread in ((40, ["reward", "reference"]), (80, [])):
        config = configuration(valid, "gpt-neox-20b", **large, gpu_memory_gb=size)
        assert spread_servers(config, "ppo", "final") == spread
        told = launch_options(config, "train_ppo", "final").split()
        assert [told[i + 1] for i, word in enumerate(told) if word == "--spread"] == spread
        assert not list(large_servers(config, "ppo", "final"))
        assert parse_launch([*told, "--", "m"]).spread == tuple(spread)
    small = configuration(valid, "gpt-neox-20b", gpus_per_node=8, gpu_memory_gb=40)
    _, reference = large_servers(small, "ppo", "final")
    assert "reference" in reference.what
    assert reference.changes.startswith("cluster.server_gpus: 2, or ")


def test_an_evaluation_gets_as_few_gpus_as_its_models_fit(valid: dict[str, Any]) -> None:
    node = {"gpus_per_node": 8, "gpu_memory_gb": 40}
    jobs = (("evaluate", "final"), ("export_store", "reference", "chat"))
    for name, gpus in (("llama-3.1-8b", 1), ("llama-30b", 3)):
        config = configuration(valid, name, **node)
        for rule, *wildcards in jobs:
            planned = plan(config, rule, ".".join(wildcards))
            assert planned.fits
            assert planned.work.gpus == gpus
            assert job_resources(config, rule, *wildcards)["gpu"] == gpus
            told = launch_options(config, rule, *wildcards)
            assert f"--gpus {gpus}" in told
            assert ("--processes 1" in told) == (gpus > 1)
    own = {"stages": {"evaluate": {"gpus_per_node": 2}}}
    planned = plan(configuration(valid, "llama-30b", **node, **own), "evaluate", "final")
    assert planned.work.gpus == 2
    assert nearest_fit(planned) == "cluster.stages.evaluate.gpus_per_node: 3"


def test_a_plan_spreads_a_model_as_it_is_loaded(tmp_path: Path) -> None:
    from support.architectures import SIZES
    from transformers import AutoConfig, AutoModelForCausalLM

    from rlhf.models.spread import device_map

    sizes = SIZES | {"num_hidden_layers": 7, "tie_word_embeddings": False}
    AutoConfig.for_model("llama", **sizes).save_pretrained(tmp_path)
    model = Model(read_shape(tmp_path))
    room, share = held_bytes(model, 4, 3)
    buffers = 64  # of rotary frequencies, at most
    with pytest.raises(ValueError, match="room"):
        device_map(AutoModelForCausalLM, tmp_path, "float32", [0.99 * room] * 3)
    places = device_map(AutoModelForCausalLM, tmp_path, "float32", [room + buffers] * 3)
    layers = [gpu for name, gpu in places.items() if ".layers." in name]
    assert max(layers.count(gpu) for gpu in range(3)) / 7 == share


def test_a_sampler_has_to_fit_its_gpus_or_takes_a_share_of_the_ranks(valid: dict[str, Any]) -> None:
    put(valid, "ppo.final.sampling.sampler", "vllm")
    put(valid, "ppo.final.scoring", "local")
    config = configuration(valid, "opt-66b", gpus_per_node=8)
    (sampler,) = large_servers(config, "ppo", "final")
    assert sampler.what.startswith("ppo.final: the sampler server needs 1")
    assert sampler.changes == "cluster.server_gpus: 3, or ppo.final.sampling.sampler: loop"
    four = configuration(valid, "opt-66b", gpus_per_node=8, server_gpus=4)
    assert not list(large_servers(four, "ppo", "final"))
    alone = plan(configuration(valid, "opt-350m", gpus_per_node=2), "train_ppo", "final")
    shared = plan(
        configuration(valid, "opt-350m", gpus_per_node=1, server_gpus=0), "train_ppo", "final"
    )
    assert "sampling" not in alone.phases  # the ranks do none
    assert "sampler" not in alone.phases["training"]
    assert shared.phases["training"]["sampler"] == pytest.approx(0.3 * 80e9)


def test_tokens_and_operations(valid: dict[str, Any], tmp_path: Path) -> None:
    config = configuration(valid, gpus_per_node=8)
    sft = plan(config, "train_sft", "chat")
    assert training_tokens(config, sft, tmp_path) is None
    folder = tmp_path / "tokenized/conversation/tiny/demo"
    folder.mkdir(parents=True)
    counts = {"counts": {"train": {"tokens": 1000, "rows": 10}}}
    (folder / "manifest.json").write_text(json.dumps(counts))
    assert training_tokens(config, sft, tmp_path) == 1000
    parameters = sft.work.trained[0].parameters
    assert training_flops(config, sft, 1000) == 6000 * parameters
    ppo = plan(config, "train_ppo", "final")
    tokens = training_tokens(config, ppo, tmp_path)
    assert tokens == 100 * 64 * (config.tokenization.prompt.max_length + 64)


def test_every_job_with_a_gpu_is_planned(valid: dict[str, Any]) -> None:
    config = configuration(valid, gpus_per_node=8)
    assert list(planned_jobs(config)) == [
        ("train_sft", "chat"),
        ("train_reward", "helpful"),
        ("export_store", "reward.helpful"),
        ("export_store", "reference.chat"),
        ("train_ppo", "final"),
        ("evaluate", "final"),
    ]
    assert claim(config).startswith("8 × ")


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from rlhf.cli import main

    recipe = REPOSITORY / "config/recipes/qwen3-1.7b.yaml"
    assert main(["plan", str(recipe), "--results", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "train_sft chat, 8 ranks, fsdp (auto)\n" in text
    assert "train_ppo final, 6 ranks, zero2, activation checkpointing (auto)\n" in text
    assert "qwen3: 1.72 B parameters, 1.72 B trained; from name qwen3-1.7b" in text
    assert "GPU hours at 150 TFLOP/s" in text
    assert text.splitlines()[-1].startswith("fits: 8 × ")
    seeds = tmp_path / "seeds.yaml"
    seeds.write_text("ppo: {final: {seeds: [4, 5, 6]}}\n")
    assert main(["plan", str(recipe), str(seeds), "--results", str(tmp_path)]) == 0
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "train_ppo" in line]
    assert said.startswith("train_ppo final-seed4, 6 ranks")
    assert said.endswith(", and again for seed 5, 6")
    small = tmp_path / "small.yaml"
    small.write_text("cluster: {gpu_memory_gb: 8}\n")
    assert main(["plan", str(recipe), str(small), "--results", str(tmp_path)]) == 1
    assert "DOES NOT FIT in 80 % of 8 GB" in capsys.readouterr().out


def test_a_plan_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys; from rlhf.cli import main; main(['plan', 'config/config.yaml'])"
    code += "; assert not {'torch', 'transformers', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True)


def test_offload_without_the_memory_for_it_is_refused(valid: dict[str, Any]) -> None:
    alone = {"gpus_per_node": 1, "server_gpus": 0, "offload": "all", "engine": "fsdp"}
    config = configuration(valid, **alone, gpu_memory_gb=141)
    (problem,) = host_problems(config, [("train_sft", "chat")], memory_gb=64)
    assert "train_sft chat keeps about 128 GB in the memory of the CPUs" in str(problem)
    assert "this machine has 64" in str(problem)
    assert list(host_problems(config, [("train_sft", "chat")], memory_gb=256)) == []
    assert list(host_problems(config, [("train_reward", "x")], memory_gb=64)) == []
    assert 0 < own_memory_gb() < 10**5
