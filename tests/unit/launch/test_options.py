from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.launch.options import agent_arguments, parse


def test_what_is_left_out(options):
    one = options()
    assert (one.nodes, one.processes, one.gpus, one.server_gpus) == (1, None, 0, 0)
    assert (one.threads, one.server_threads, one.stores, one.binds) == (1, 1, {}, ())
    assert one.image is one.serve_image is one.sample_image is one.state is one.sampler is None
    assert one.command == ("rlhf.stages.train_ppo", "--name", "final run")


def test_servers_run_in_the_image_of_the_ranks_unless_they_have_their_own(options):
    assert options("--image a.sif").serve_image == Path("a.sif")
    assert options("--image a.sif --serve-image b.sif").serve_image == Path("b.sif")
    assert options("--serve-image b.sif").image is None


def test_agents_get_the_same_command_line_and_a_few_words_more(options):
    one = options("--nodes 2 --dry-run --serve reference=/f --serve reward=/r")
    line = agent_arguments(one, Path("/v"), "10.0.0.1:29500")
    agent = parse(line)
    assert agent.agent
    assert agent.exit_codes == Path("/v")
    assert agent.rendezvous == "10.0.0.1:29500"
    assert (agent.command, agent.nodes, agent.dry_run) == (one.command, 2, False)
    assert list(agent.stores) == ["reward", "reference"]  # GPUs are given out in this order


def test_several_reward_models_have_servers_of_their_own(options):
    one = options("--serve reference=/f --serve reward=/a --serve reward2=/b --spread reward2")
    assert one.servers == ("reward", "reward2", "reference")
    assert one.spread == ("reward2",)
    assert one.server_log("reward2", 0).name.endswith(".reward2-server.log")
    assert parse(agent_arguments(one, Path("/v"), None)).stores == one.stores


def test_the_sampler_is_the_last_server(options):
    one = options("--sampler /m --sampler-dtype float32 --sampler-length 96 --serve reward=/r")
    assert one.servers == ("reward", "sampler")
    assert (one.sampler, one.sampler_dtype, one.sampler_length) == (Path("/m"), "float32", 96)
    assert parse(agent_arguments(one, Path("/v"), None)).sampler == Path("/m")
    assert options("--image a.sif --sampler /m").sample_image is None  # it holds no vLLM


def test_the_servers_of_several_nodes_have_logs_of_their_own(options):
    one, two = options("--log logs/final.log"), options("--log logs/final.log --nodes 2")
    assert one.server_log("reward", 0) == Path("logs/final.reward-server.log")
    assert two.server_log("reward", 1) == Path("logs/final.node1.reward-server.log")


@pytest.mark.parametrize(
    "line",
    ["--nodes 0", "--processes 0", "--gpus -1", "--server-gpus -1", "--threads 0",
     "--server-threads 0",
     "--sampler /m --sampler-dtype float16", "--sampler-length 1",
     "--serve reward", "--serve other=/x", "--serve reward=",
     "--serve reward=/x --serve reward=/y", "--serve reward=/x --spread reference",
     "--serve 2=/x", "--node 2", "--gpus many"],
)  # fmt: skip
def test_wrong_command_lines_end_with_2(options, line, capsys):
    with pytest.raises(SystemExit) as ended:
        options(line)
    assert ended.value.code == 2
    assert "usage: rlhf launch [options] -- MODULE" in capsys.readouterr().err


def test_a_command_line_without_a_module(capsys):
    with pytest.raises(SystemExit):
        parse(["--gpus", "1"])
    assert "which module?" in capsys.readouterr().err
