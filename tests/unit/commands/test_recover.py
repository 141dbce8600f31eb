from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time

import pytest
from support.programs import claimant

from rlhf.cli import main
from rlhf.commands import recover
from rlhf.pipeline import snakemakes as heads
from rlhf.runtime import ownership

pytestmark = pytest.mark.usefixtures("no_launcher", "fake_slurm")

RUN = "mine_0a1b2c3d-0000-4000-8000-0123456789ab"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose Snakemake was killed: its lock is still there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recover, "POLL_SECONDS", 0.05)
    lock = tmp_path / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("results/sft/chat/manifest.json\n")
    return tmp_path


def locked(project):
    return (project / ".snakemake/locks/0.output.lock").exists()


def job(number, project, rule="train_sft_wildcards_chat", **changes):
    known = {"id": str(number), "state": "RUNNING", "name": RUN, "nodes": "node3",
             "elapsed": "12:03", "folder": str(project), "comment": f"rule_{rule}"}  # fmt: skip
    return known | changes


def owner(project, place, **changes):
    attempt = dataclasses.replace(ownership.new_attempt(), **changes)
    return ownership.claim(project / "state" / place, attempt)


def test_nothing_runs(project, fake_slurm, capsys):
    assert main(["recover"]) == 0
    assert not locked(project)
    assert "run snakemake again" in capsys.readouterr().out
    assert main(["recover"]) == 0
    assert "Nothing is left to recover" in capsys.readouterr().out


def test_jobs_are_listed_and_nothing_is_touched(project, fake_slurm, capsys):
    waiting = {"state": "PENDING", "nodes": "", "elapsed": "0:00"}
    fake_slurm(job(7, project), job(8, project, "train_reward_wildcards_helpful", **waiting))
    assert main(["recover"]) == 1
    out = capsys.readouterr().out
    assert "train_sft chat                    job 7 RUNNING 12:03 on node3\n" in out
    assert "train_reward helpful              job 8 PENDING\n" in out
    assert "2 jobs of a Snakemake that is gone" in out
    assert "rlhf recover --wait" in out
    assert "rlhf recover --cancel" in out
    assert locked(project)


def test_jobs_of_others_are_left_alone(project, fake_slurm, capsys):
    fake_slurm(
        job(1, project.parent),  # another project
        job(2, project, name="bash", comment="(null)"),  # the user's own shell in this folder
    )
    assert main(["recover", "--cancel"]) == 0
    assert not locked(project)
    assert set(recover.slurm.unfinished_jobs()) == {"1", "2"}


@pytest.mark.parametrize("changes", [{"comment": ""}, {"name": "renamed by the site"}])
def test_a_job_is_known_by_its_name_or_its_comment(project, fake_slurm, changes):
    fake_slurm(job(7, project, **changes))
    assert main(["recover"]) == 1


def test_a_folder_may_be_reached_by_a_link(project, fake_slurm, tmp_path_factory):
    link = tmp_path_factory.mktemp("home") / "project"
    link.symlink_to(project)
    fake_slurm(job(7, link))
    assert main(["recover"]) == 1


def test_cancel(project, fake_slurm, capsys):
    fake_slurm(job(7, project), job(8, project), job(9, project.parent))
    assert main(["recover", "--cancel"]) == 0
    assert set(recover.slurm.unfinished_jobs()) == {"9"}
    assert not locked(project)


def test_cancel_that_slurm_refuses(project, fake_slurm, capsys):
    fake_slurm(job(7, project), refuses=True)
    assert main(["recover", "--cancel"]) == 2
    assert "Access/permission denied" in capsys.readouterr().err
    assert locked(project)


def test_wait(project, fake_slurm, capsys):
    fake_slurm(job(7, project))
    done = subprocess.Popen(  # the job ends meanwhile
        [sys.executable, "-c", "import time, sys; from pathlib import Path; time.sleep(1);"
         "Path(sys.argv[1]).write_text('{\"jobs\": []}')", os.environ["FAKE_SLURM"]]
    )  # fmt: skip
    assert main(["recover", "--wait"]) == 0
    done.wait()
    assert "waiting for 1 job\n" in capsys.readouterr().out
    assert not locked(project)


def test_waiting_outlives_a_slurm_that_is_away_for_a_while(project, fake_slurm, monkeypatch):
    answers = [[recover.Remnant("train_sft chat", "job 7", "7")], None, []]

    def find(*_):
        answer = answers.pop(0)
        if answer is None:
            raise recover.RlhfError("SLURM does not answer.")
        return answer

    monkeypatch.setattr(recover, "find_remnants", find)
    assert main(["recover", "--wait"]) == 0
    assert not locked(project)


def test_a_slurm_that_does_not_answer_unlocks_nothing(project, fake_slurm, capsys):
    fake_slurm(down=True)
    (project / "logs/slurm").mkdir(parents=True)
    assert main(["recover"]) == 2
    assert "SLURM does not answer" in capsys.readouterr().err
    assert locked(project)


def test_a_slurm_that_does_not_answer_is_nothing_to_whoever_never_used_it(project, fake_slurm):
    fake_slurm(down=True)
    owner(project, "train_sft/chat", pid=1)
    assert main(["recover"]) == 0
    assert not locked(project)


def test_a_job_that_owns_a_state_is_found_without_name_and_comment(project, fake_slurm, capsys):
    """A job script of the user's own that calls the launcher: it is not Snakemake's to cancel."""
    fake_slurm(job(7, project, name="my-job", comment="(null)"))
    owner(project, "train_ppo/final", job="7", machine="node3's")
    assert main(["recover"]) == 1
    assert "train_ppo final                   job 7 RUNNING" in capsys.readouterr().out
    assert main(["recover", "--cancel"]) == 2
    error = capsys.readouterr().err
    assert "train_ppo final: job 7 RUNNING" in error
    assert "end these where they run" in error
    assert locked(project)


def test_a_finished_owner_is_no_remnant(project, fake_slurm):
    owner(project, "train_sft/chat").release()
    owner(project, "train_ppo/final", job="6", machine="a lost node's", pid=1)
    assert main(["recover"]) == 0


@pytest.fixture
def launcher(project):
    """A launcher that owns a state and lives on, though its Snakemake is gone."""
    process = subprocess.Popen(
        [sys.executable, claimant.__file__, str(project / "state/train_sft/chat")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline().startswith("owner")
    yield process
    process.kill()
    process.communicate()


def test_a_launcher_on_this_machine(project, launcher, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(project))  # no SLURM
    assert main(["recover"]) == 1
    out = capsys.readouterr().out
    assert f"train_sft chat                    process {launcher.pid} on " in out
    assert "1 process of a Snakemake that is gone" in out
    assert locked(project)
    assert main(["recover", "--cancel"]) == 0
    assert launcher.wait(5) == -signal.SIGTERM
    assert not locked(project)


def test_a_snakemake_that_is_alive_keeps_its_lock(project, fake_slurm, capsys):
    fake_slurm(job(7, project))
    code = (
        "import sys; from pathlib import Path; from rlhf.pipeline import snakemakes as heads;"
        "heads.announce(Path('.snakemake')); print('on', flush=True); sys.stdin.read()"
    )
    head = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    head.stdout.readline()
    for option in ([], ["--wait"], ["--cancel"]):
        assert main(["recover", *option]) == 2
        captured = capsys.readouterr()
        assert "A Snakemake is running here" in captured.err
        assert f"process {head.pid} on " in captured.err
    assert locked(project)
    assert set(recover.slurm.unfinished_jobs()) == {"7"}
    head.communicate("")
    assert heads.announced(project / ".snakemake") == []
    assert main(["recover"]) == 1


def test_a_snakemake_that_was_killed_leaves_a_record_that_is_cleared_away(project, fake_slurm):
    code = (
        "import os; from pathlib import Path; from rlhf.pipeline import snakemakes as heads;"
        "heads.announce(Path('.snakemake')); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code])
    assert len(heads.announced(project / ".snakemake")) == 1
    assert main(["recover"]) == 0
    assert not locked(project)
    assert heads.announced(project / ".snakemake") == []


def test_a_snakemake_on_another_login_node_is_known_by_its_heartbeat(
    project, fake_slurm, monkeypatch, capsys
):
    monkeypatch.setattr(ownership, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(ownership, "LOST_SECONDS", 5.0)  # a busy machine's heart may miss beats
    attempt = dataclasses.replace(ownership.new_attempt(), machine="login2's", host="login2")
    elsewhere = ownership.claim(project / ".snakemake/heads/one", attempt)
    assert main(["recover"]) == 2
    assert "on login2" in capsys.readouterr().err
    elsewhere._ended.set()  # killed
    time.sleep(0.1)
    assert main(["recover"]) == 0
    assert not locked(project)
