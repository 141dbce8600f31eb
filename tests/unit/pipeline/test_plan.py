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
from rlhf.pipeline.amounts import training_flops, training_tokens
from rlhf.pipeline.jobs import training_options
from rlhf.pipeline.memory import Setting
from rlhf.pipeline.plan import claim, large_servers, nearest_fit, plan, planned_jobs
from rlhf.pipeline.preflight import check
from rlhf.pipeline.resources import stage_resources
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
    assert planned.setting == Setting("replicated", checkpointing=True)


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
                           activation_checkpointing=True)  # fmt: skip
    told = shlex.split(training_options(config, "train_sft", "chat"))
    manifest = ["--output", "manifest", "x/manifest.json"]
    stage, _ = parse(["--name", "chat", "--config", "{}", *manifest, *told])
    assert stage.engine == plan(config, "train_sft", "chat").engine
    assert (stage.engine.kind, stage.engine.shard, stage.engine.offload) == ("fsdp", "node", "all")
    assert stage.engine.activation_checkpointing
    plain = training_options(load_config(valid | {"cluster": {}}), "train_sft", "chat")
    assert "--engine replicated --shard all --offload none" in plain
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
    assert [line.partition(" needs")[0] for line in lines] == [
        "ppo.final: the reward server",
        "ppo.final: the reference server",
    ]
    assert "store.dtype: auto" in lines[0]
    put(valid, "store.dtype", "auto")
    assert not list(large_servers(configuration(valid, "gpt-neox-20b", gpus_per_node=8), "ppo",
                                  "final"))  # fmt: skip


def test_a_sampler_has_to_fit_its_gpus_or_takes_a_share_of_the_ranks(valid: dict[str, Any]) -> None:
    put(valid, "ppo.final.sampling.sampler", "vllm")
    put(valid, "ppo.final.scoring", "local")
    config = configuration(valid, "opt-66b", gpus_per_node=8)
    (line,) = large_servers(config, "ppo", "final")
    assert line.startswith("ppo.final: the sampler server needs 1")
    assert "raise cluster.server_gpus" in line
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
    assert "train_ppo final, 6 ranks, fsdp (auto), activation checkpointing (auto)\n" in text
    assert "qwen3: 1.72 B parameters, 1.72 B trained; from name qwen3-1.7b" in text
    assert "GPU hours at 150 TFLOP/s" in text
    assert text.splitlines()[-1].startswith("fits: 8 × ")
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
