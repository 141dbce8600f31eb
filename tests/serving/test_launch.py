"""The launcher, run as people and rules run it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from support.programs import python_path
from support.served_models import make_store

from rlhf.runtime.processes import command_line, descendants

LAUNCH = [sys.executable, "-m", "rlhf.launch"]


class Launch:
    """Starts launchers in a folder, and finds what they leave behind."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.scratch = folder, folder / "tmp"
        self.mark = f"RLHF_TEST={uuid.uuid4()}"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        key, _, value = self.mark.partition("=")
        self.scratch.mkdir(exist_ok=True)
        environment = {**os.environ, key: value}
        environment["PYTHONPATH"] = python_path()
        environment["TMPDIR"] = str(self.scratch)
        return subprocess.Popen(
            [*LAUNCH, *arguments], cwd=self.folder, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=1800)
        assert not self.left_behind()
        assert not list(self.scratch.iterdir())
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def left_behind(self) -> list[str]:
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and self.mark in (entry / "environ").read_text():
                    found.append((entry / "cmdline").read_text())
        return found

    def shared_memory(self) -> list[Path]:
        """Segments of the servers that this launcher started."""
        logs = self.folder.rglob("*-server.log")
        names = {
            name for log in logs for name in re.findall(r"rlhf-\w+-[0-9a-f]{16}", log.read_text())
        }
        assert names
        return [path for name in names for path in Path("/dev/shm").glob(f"{name}*")]

    def gone(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while self.left_behind() and time.monotonic() < until:
            time.sleep(0.1)
        return not self.left_behind()


@pytest.fixture
def launch(tmp_path):
    return Launch(tmp_path)


def wait_for(process: subprocess.Popen[str], condition, seconds: float = 900.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)


@pytest.mark.parametrize("code", [0, 3, 75])
@pytest.mark.parametrize("processes", ["1", "2"])
def test_exit_codes_pass(launch, code, processes):
    stage = ["launched_stage", "exit", str(code), "--log", "logs/stage.log"]  # as stages have
    done = launch.run("--processes", processes, "--", *stage)
    assert done.returncode == code


def test_death_by_signal_passes(launch):
    done = launch.run("--", "launched_stage", "die", "9")
    assert done.returncode == 128 + 9
    assert f"rank 0 on {os.uname().nodename} was ended by SIGKILL: out of memory?" in done.stderr
    assert "GB are free now" in done.stderr
    assert "to do:" in done.stderr


def test_a_rank_that_is_killed_is_named_with_its_signal(launch):
    done = launch.run("--processes", "3", "--", "launched_stage", "die_as", "1", "9")
    assert done.returncode == 128 + 9
    assert f"rank 1 on {os.uname().nodename} was ended by SIGKILL: out of memory?" in done.stderr
    assert done.stderr.count("was ended by SIG") == 1  # torchrun ended the others


@pytest.mark.slow
def test_ranks_that_are_ended_because_another_one_failed_are_not_blamed(launch):
    """Deaf to SIGTERM, they get SIGKILL from torchrun half a minute later."""
    done = launch.run("--processes", "2", "--", "launched_stage", "fail_beside_the_deaf", "4")
    assert done.returncode == 4
    assert "was ended by" not in done.stderr


def test_of_other_signals_memory_is_not_to_blame(launch):
    done = launch.run("--", "launched_stage", "die", str(int(signal.SIGSEGV)))
    assert done.returncode == 128 + signal.SIGSEGV
    assert "was ended by SIGSEGV" in done.stderr
    assert "memory" not in done.stderr


def test_threads_and_ranks(launch):
    done = launch.run("--processes", "2", "--threads", "1", "--", "launched_stage", "show")
    seen = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(one["rank"] for one in seen) == ["0", "1"]
    assert {one["threads"] for one in seen} == {"1"}


def test_dry_run_starts_nothing(launch, reward, tmp_path):
    done = launch.run(
        "--dry-run", "--processes", "4", "--log", "logs/ppo.log",
        "--serve", f"reward={reward.store}", "--", "rlhf.stages.ppo", "--name", "a b",
    )  # fmt: skip
    assert done.returncode == 0
    assert f"-m rlhf.serving.tritonserver {reward.store} …" in done.stdout
    assert "log logs/ppo.reward-server.log" in done.stdout
    assert "RLHF_ENDPOINT_REWARD=127.0.0.1:PORT" in done.stdout
    assert done.stdout.splitlines()[-1].endswith(
        "-m rlhf.launch.torchrun --standalone --local-addr=127.0.0.1 --nproc-per-node=4 "
        "--log-dir=/SCRATCH/torchrun -m -- rlhf.launch.worker rlhf.stages.ppo --name 'a b'"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]


@pytest.mark.parametrize(
    "arguments",
    [[], ["--"], ["--processes", "0", "--", "m"], ["--serve", "other=x", "--", "m"]],
)
def test_wrong_command_lines(launch, arguments):
    assert launch.run(*arguments).returncode == 2


@pytest.mark.parametrize(
    ("processes", "number"),
    [("1", signal.SIGTERM), ("1", signal.SIGINT), ("2", signal.SIGUSR2), ("2", signal.SIGTERM)],
)
def test_signals_reach_every_rank(launch, tmp_path, processes, number):
    process = launch.start(
        "--processes", processes, "--", "launched_stage", "wait_for_signal", str(tmp_path)
    )
    ranks = [tmp_path / str(rank) for rank in range(int(processes))]
    wait_for(
        process, lambda: all(rank.exists() and rank.read_text() == "waiting" for rank in ranks)
    )
    process.send_signal(number)
    process.communicate(timeout=900)
    assert process.returncode == 75
    assert [rank.read_text() for rank in ranks] == [number.name] * len(ranks)
    assert not launch.left_behind()


@pytest.mark.slow
def test_a_killed_launcher_takes_everything_along(launch, tmp_path, reward):
    process = launch.start(
        "--serve", f"reward={reward.store}",
        "--", "launched_stage", "wait_for_signal", str(tmp_path),
    )  # fmt: skip
    wait_for(process, (tmp_path / "0").exists)
    process.kill()
    process.communicate()
    assert launch.gone(30)
    assert not launch.shared_memory()
    assert (tmp_path / "0").read_text() == "SIGTERM"  # so a stage can still save


@pytest.mark.slow
def test_a_crashed_server_is_restarted(launch, tmp_path, reward):
    """The stage's requests wait for it, and their answers stay the same."""
    done = launch.run(
        "--log", "logs/ppo.log", "--serve", f"reward={reward.store}", "--spread", "reward",
        "--", "launched_stage", "score_across_a_crash", json.dumps(reward.identity),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "the same rewards" in done.stdout
    assert "ended with exit code -9 (SIGKILL); restarting it" in done.stderr
    log = (tmp_path / "logs" / "ppo.reward-server.log").read_text()
    assert "reward_0_0 (MODEL device 0)" in log, "one model, which sees all devices"
    assert not launch.shared_memory()


@pytest.mark.parametrize("lost", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_two_reward_models_score_as_they_do_in_the_process(launch, tmp_path, reward, lost):
    """Each by its own server; over the loss of one too."""
    other = make_store(tmp_path / "other", "reward", seed=5)
    done = launch.run(
        "--log", "logs/ppo.log",
        "--serve", f"reward={reward.store}", "--serve", f"reward2={other.store}",
        "--", "launched_stage", "score_with_two", str(lost),
        str(reward.artifact), str(other.artifact),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "the same scores" in done.stdout
    assert "the reward2 server is ready at" in done.stderr
    assert done.stderr.count("restarting it") == lost
    assert (tmp_path / "logs" / "ppo.reward2-server.log").exists()
    assert not launch.shared_memory()


@pytest.mark.slow
def test_a_server_that_keeps_dying_ends_the_stage(launch, reward):
    done = launch.run(
        "--serve", f"reward={reward.store}", "--", "launched_stage", "kill_servers_forever"
    )
    assert done.returncode == 1
    assert done.stderr.count("restarting it") == 2
    assert "The reward server ended with exit code -9 (SIGKILL) after 2 restarts" in done.stderr
    assert "The end of its log:" in done.stderr
    assert not launch.shared_memory()


def test_a_server_that_never_starts_is_reported(launch, tmp_path):
    broken = make_store(tmp_path / "broken", "reward", seed=4)
    (broken.store / "reward" / "1" / "hf" / "config.json").write_text("{}")
    done = launch.run("--serve", f"reward={broken.store}", "--", "launched_stage", "exit", "0")
    assert done.returncode == 1
    assert "ended with exit code 1 before it was ready. The end of its log:" in done.stderr
    assert "to do:" in done.stderr


@pytest.mark.slow
def test_a_server_that_is_killed_before_it_is_ready_is_restarted(launch, reward):
    process = launch.start("--serve", f"reward={reward.store}", "--", "launched_stage", "show")
    kill_new_servers(process, 2)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert json.loads(out)["rank"] is None
    assert err.count("ended with exit code -9 (SIGKILL) before it was ready; restarting it") == 2
    assert not launch.left_behind()


@pytest.mark.slow
def test_a_server_that_is_killed_again_and_again_before_it_is_ready(launch, reward):
    process = launch.start("--serve", f"reward={reward.store}", "--", "launched_stage", "show")
    kill_new_servers(process, 3)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 1
    assert not out
    assert "(SIGKILL) before it was ready after 2 restarts" in err
    assert not launch.left_behind()


@pytest.mark.slow
def test_a_server_whose_model_is_killed_as_it_loads_is_restarted(launch, reward):
    """Triton would wait for it until the end of the job."""
    process = launch.start("--serve", f"reward={reward.store}", "--", "launched_stage", "show")
    kill_as_it_imports(process, "/triton_python_backend_stub")
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert json.loads(out)["rank"] is None
    assert err.count("lost the process that holds its model before it was ready; restarting") == 1


def kill_as_it_imports(launcher: subprocess.Popen[str], program: str) -> None:
    """Kill the first process of a program that is in the midst of importing torch."""
    until = time.monotonic() + 300
    while True:
        assert time.monotonic() < until
        for pid in descendants(launcher.pid):
            with contextlib.suppress(OSError):  # it has ended by now
                if (
                    "".join(command_line(pid)[:1]).endswith(program)
                    and "libtorch" in Path(f"/proc/{pid}/maps").read_text()
                ):
                    os.kill(pid, signal.SIGKILL)
                    return
        time.sleep(0.01)


def kill_new_servers(launcher: subprocess.Popen[str], count: int) -> None:
    """Kill the launcher's first servers as soon as each one is there, long before it is ready."""
    killed: set[int] = set()
    until = time.monotonic() + 100
    while len(killed) < count:
        assert time.monotonic() < until
        for pid in set(descendants(launcher.pid)) - killed:
            if command_line(pid)[:1] and command_line(pid)[0].endswith("/tritonserver"):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        time.sleep(0.01)


def test_a_store_of_another_kind(launch, reward):
    done = launch.run("--serve", f"reference={reward.store}", "--", "launched_stage", "show")
    assert done.returncode == 1
    assert "This store holds a reward model" in done.stderr


def test_a_signal_before_the_stage_starts(launch, tmp_path, reward):
    process = launch.start("--serve", f"reward={reward.store}", "--", "launched_stage", "show")
    wait_for(process, (tmp_path / "logs" / "launch.reward-server.log").exists)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=900)
    assert process.returncode == 128 + signal.SIGTERM
    assert not out
    assert not launch.left_behind()
