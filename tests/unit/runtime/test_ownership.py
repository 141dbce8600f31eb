from __future__ import annotations

import dataclasses
import errno
import json
import os
import stat
import subprocess
import sys
import time

import pytest
from support.programs import claimant, python_path

from rlhf.core.digest import digest_file
from rlhf.errors import EXIT_FENCED, Fenced, RlhfError
from rlhf.runtime import fence, ownership

# where the stage of lost_attempt.py halts
POINTS = ("start", "step", "save", "publish model", "model", "publish journal", "manifest")


pytestmark = pytest.mark.usefixtures("no_launcher")


def start_claimant(folder, **variables):
    return subprocess.Popen(
        [sys.executable, claimant.__file__, str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | variables,
    )  # fmt: skip


@pytest.fixture
def claimants():
    """Starts claimants, and ends those that are left."""
    started = []

    def start(folder, **variables):
        started.append(start_claimant(folder, **variables))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


def says(claimant):
    return claimant.stdout.readline().strip()


def claim(folder, **changes):
    return ownership.claim(folder, dataclasses.replace(ownership.new_attempt(), **changes))


def test_a_second_writer_is_refused(tmp_path, claimants):
    first = claimants(tmp_path)
    assert says(first).startswith("owner ")
    refused = says(claimants(tmp_path))
    assert refused.startswith("refused Another attempt works on this run")
    assert f"process {first.pid} on " in refused
    assert "rlhf recover" in refused
    first.communicate("")
    assert says(claimants(tmp_path)).startswith("owner ")


def test_of_many_claimants_at_once_one_wins(tmp_path, claimants):
    dead = claimants(tmp_path)
    says(dead)
    dead.kill()
    dead.wait()
    answers = [says(one) for one in [claimants(tmp_path) for _ in range(6)]]
    assert sorted(answer.split()[0] for answer in answers) == ["owner"] + ["refused"] * 5


def test_a_dead_owner_is_replaced_at_once(tmp_path, claimants):
    owner = claimants(tmp_path)
    says(owner)
    owner.kill()  # and nobody has reaped it yet
    os.waitid(os.P_PID, owner.pid, os.WEXITED | os.WNOWAIT)
    with claim(tmp_path) as mine:
        assert fence.still_mine(tmp_path, mine.attempt.id)


def test_a_recycled_process_id_does_not_keep_a_dead_owner_alive(tmp_path):
    started = ownership.new_attempt().pid_started
    dead = claim(tmp_path, pid_started=started - 1)
    with claim(tmp_path) as mine:
        assert fence.owner_of(tmp_path).attempt == mine.attempt
        assert not fence.still_mine(tmp_path, dead.attempt.id)


def test_a_reboot_does_not_keep_a_dead_owner_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "LOST_SECONDS", -1.0)  # so long ago
    lost = claim(tmp_path, machine="an earlier boot")
    with claim(tmp_path):
        assert not fence.still_mine(tmp_path, lost.attempt.id)


def test_an_owner_elsewhere_lives_as_long_as_its_heartbeat_moves(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "BEAT_SECONDS", 0.2)
    elsewhere = claim(tmp_path, machine="another machine", host="node7")
    with pytest.raises(RlhfError, match="Another attempt") as refused:
        claim(tmp_path)
    assert "on node7" in refused.value.expected
    elsewhere.release()
    claim(tmp_path).release()


def test_an_owner_on_a_lost_machine_is_waited_for_then_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "BEAT_SECONDS", 0.1)
    lost = claim(tmp_path, machine="another machine")
    lost._ended.set()  # the machine stops dead
    lost._heart.join()
    monkeypatch.setattr(ownership, "LOST_SECONDS", 0.5)
    began = time.monotonic()
    with claim(tmp_path):
        assert time.monotonic() - began > 0.4
        assert not fence.still_mine(tmp_path, lost.attempt.id)


def test_the_replaced_owner_notices(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "BEAT_SECONDS", 0.05)
    lost = claim(tmp_path, pid_started=1)
    with claim(tmp_path) as mine:
        lost._heart.join(5)
        assert not lost._heart.is_alive()
        lost.release()
        assert fence.still_mine(tmp_path, mine.attempt.id)
        assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_does_not_hide_how_an_attempt_ended(tmp_path, monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    mine = claim(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(ownership, "write_json", full)
        mine.release()
    assert not fence.owner_of(tmp_path).released
    assert not mine._heart.is_alive()


def test_slurms_word_on_a_job_counts_more_than_a_process(tmp_path, fake_slurm):
    fake_slurm({"id": "7", "state": "RUNNING"}, {"id": "8", "state": "PENDING"})
    claim(tmp_path / "runs", job="7", pid_started=1)
    with pytest.raises(RlhfError, match="Another attempt") as refused:
        claim(tmp_path / "runs")
    assert "SLURM job 7, process" in refused.value.expected
    for ended in ("6", "8"):  # finished; requeued, and to run again later
        claim(tmp_path / ended, job=ended)
        claim(tmp_path / ended).release()


@pytest.mark.parametrize("state", ["COMPLETING", "SUSPENDED", "CONFIGURING"])
def test_a_job_that_has_processes_is_alive(tmp_path, fake_slurm, state):
    fake_slurm({"id": "7", "state": state})
    claim(tmp_path, job="7")
    with pytest.raises(RlhfError, match="Another attempt"):
        claim(tmp_path)


def test_without_an_answer_from_slurm_the_process_counts(tmp_path, fake_slurm):
    fake_slurm(down=True)
    claim(tmp_path / "a", job="7")
    with pytest.raises(RlhfError, match="Another attempt"):
        claim(tmp_path / "a")
    claim(tmp_path / "b", job="7", pid_started=1)
    claim(tmp_path / "b").release()


def test_a_requeued_job_replaces_its_earlier_run(tmp_path, fake_slurm, monkeypatch):
    fake_slurm({"id": "7", "state": "RUNNING"})
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    ownership.claim(tmp_path, ownership.new_attempt())
    with pytest.raises(RlhfError, match="Another attempt"):  # a second launcher in one allocation
        ownership.claim(tmp_path, ownership.new_attempt())
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    ownership.claim(tmp_path, ownership.new_attempt()).release()


def test_a_damaged_owner_file_stands_for_nobody(tmp_path):
    (tmp_path / "owner-00000004.json").write_bytes(b"\0" * 40)
    with claim(tmp_path) as mine:
        assert fence.owner_of(tmp_path).path.name == "owner-00000005.json"
        assert fence.still_mine(tmp_path, mine.attempt.id)


def test_owners_are_private(tmp_path):
    with claim(tmp_path / "state") as mine:
        assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
        files = list((tmp_path / "state").iterdir())
        assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o600]
        assert json.loads(mine.variables()[fence.ATTEMPT])["id"] == mine.attempt.id
    assert fence.owner_of(tmp_path / "state").released


def test_a_process_that_no_launcher_started_has_nothing_to_check(tmp_path, monkeypatch):
    fence.check()
    with claim(tmp_path) as mine:
        monkeypatch.setenv(*mine.variables().popitem())
        fence.check()
    claim(tmp_path).release()
    with pytest.raises(Fenced, match="replaced"):
        fence.check()


def start_stage(work, point, variables, processes=1):
    arguments = [
        "lost_attempt", point, str(work), "--name", "x", "--config", "{}",
        "--output", "model", str(work / 'results/model'),
        "--output", "metrics", str(work / 'results/metrics.jsonl'),
        "--output", "manifest", str(work / 'results/manifest.json'),
        "--state", str(work / "state"), "--save-steps", "1",
    ]  # fmt: skip
    command = [sys.executable, "-m", *arguments]
    if processes > 1:
        command = [sys.executable, "-m", "rlhf.launch", f"--processes={processes}"]
        command += [f"--log={work / 'launch.log'}", "--", *arguments]
    return subprocess.Popen(
        command, env=os.environ | variables | {"PYTHONPATH": python_path()}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def tree(folder):
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, digest_file(path))
        for path in folder.rglob("*")
        if path.is_file()
    }


def without_scratch(tree):
    """What a writer has aside, it may clear away."""
    return {name: file for name, file in tree.items() if not name.startswith(".")}


def without_journals(tree):
    """What was appended after the last save, the next run drops when it begins."""
    return {name: file for name, file in tree.items() if not name.endswith(".jsonl")}


def wait_for(path, process):
    until = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def take_over_and_finish(work):
    """The next attempt does the whole run, in a process of its own, while the lost one halts."""
    with claim(work / "state") as mine:
        done = start_stage(work, "nowhere", mine.variables())
        output, _ = done.communicate(timeout=600)
        assert done.returncode == 0, output


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_a_fenced_writer_changes_nothing(tmp_path, fake_slurm, point):
    """Its node is lost: SLURM no longer knows the job, but the process lives on."""
    lost = claim(tmp_path / "state", job="7")
    stage = start_stage(tmp_path, point, lost.variables())
    wait_for(tmp_path / "waiting", stage)
    take_over_and_finish(tmp_path)
    before = {name: without_scratch(tree(tmp_path / name)) for name in ("state", "results")}
    (tmp_path / "go").touch()
    output, _ = stage.communicate(timeout=600)
    assert stage.returncode == EXIT_FENCED, output
    assert "has been replaced and writes nothing more" in output
    assert "Traceback" not in output
    assert {name: tree(tmp_path / name) for name in ("state", "results")} == before


@pytest.mark.slow
def test_all_ranks_of_a_fenced_attempt_leave(tmp_path, fake_slurm):
    lost = claim(tmp_path / "state", job="7")
    stage = start_stage(tmp_path, "step", lost.variables(), processes=2)
    wait_for(tmp_path / "waiting", stage)
    claim(tmp_path / "state").release()
    before = without_journals(tree(tmp_path / "state"))
    (tmp_path / "go").touch()
    output, _ = stage.communicate(timeout=600)
    assert stage.returncode == EXIT_FENCED, output
    # A rank that hangs does not heed SIGTERM, and torchrun says so when it kills it.
    assert "forcefully exiting" not in output
    assert without_journals(tree(tmp_path / "state")) == before
