from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from rlhf.cli import main
from rlhf.doctor import ranks, storage
from rlhf.doctor.check import Check

REPOSITORY = Path(__file__).resolve().parents[3]
CONFIG = REPOSITORY / "tests/config/tiny.yaml"


@pytest.fixture
def site(tmp_path, fake_slurm, no_launcher, monkeypatch):
    """A project on a login node of a fake cluster."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(storage, "_MEGABYTES", 1)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    profile = Path("profiles/slurm/profile.v9+.yaml")
    profile.parent.mkdir(parents=True)
    given = {"slurm_account": "lab", "slurm_partition": "gpu"}
    profile.write_text(yaml.safe_dump({"default-resources": given}))
    return fake_slurm


def doctor(*arguments):
    return main(["doctor", f"--configfile={CONFIG}", *arguments])


def as_json(capsys):
    return json.loads(capsys.readouterr().out)


def test_a_login_node(site, capsys):
    doctor()
    out = capsys.readouterr().out
    assert out.startswith(os.uname().nodename + "\n")
    assert "  ok      SLURM: answers; slurm 22.05.8\n" in out
    assert "all-reduce" not in out  # a login node is no place for that
    assert out.splitlines()[-1].endswith(" ok")


def test_a_machine_without_slurm_reduces_itself(site, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    asked = []

    def check_ranks(*arguments):
        asked.append(arguments)
        return Check("all-reduce", "ok", "2 ranks")

    monkeypatch.setattr(ranks, "check_ranks", check_ranks)
    doctor("--json")
    (checks,) = as_json(capsys).values()
    assert "all-reduce" in [check["name"] for check in checks]
    assert asked == [(1, 0, None, Path("logs/doctor"))]


def test_a_failure_is_exit_code_1_and_says_what_to_do(site, capsys):
    site(down=True)
    assert doctor() == 1
    out = capsys.readouterr().out
    assert "  failed  SLURM: SLURM does not answer" in out
    assert "          to do: " in out
    assert "1 failed" in out or "2 failed" in out


def test_a_configuration_that_is_not_valid(site, capsys, tmp_path):
    (tmp_path / "bad.yaml").write_text("modles: {}\n")
    assert main(["doctor", "--configfile=bad.yaml", "--json"]) == 1
    (checks,) = as_json(capsys).values()
    (check,) = [check for check in checks if check["name"] == "configuration"]
    assert check["verdict"] == "failed"


def test_a_job(site, capsys):
    doctor("--json", "--job", "--", "--partition=cpu", "--gres=gpu:1")
    here, job = as_json(capsys).values()
    names = [check["name"] for check in job]
    assert names[0] == f"files of the login node, on {os.uname().nodename}"
    assert {check["verdict"] for check in job if check["name"] in (names[0], "all-reduce")} == {
        "ok"
    }
    assert "SLURM" in [check["name"] for check in here]
    submitted = json.loads(Path(os.environ["FAKE_SLURM"]).read_text())["submitted"]
    assert submitted.index("--partition=gpu") < submitted.index(
        "--partition=cpu"
    )  # the last counts
    assert {"--account=lab", "--gres=gpu:1", "--job-name=rlhf-doctor"} <= set(submitted)
    assert [path.name for path in Path("logs/doctor").iterdir()] == ["41.log"]


def only_check(capsys):
    (check,) = as_json(capsys)["a job"]
    assert (check["name"], check["verdict"]) == ("job", "failed")
    return check


def test_a_job_that_does_not_start_is_cancelled(site, capsys):
    site({"id": "41", "state": "PENDING"}, hangs=True)
    assert doctor("--json", "--job", "--limit=0.5") == 1
    check = only_check(capsys)
    assert check["found"] == "job 41 has not ended in 0.5 s"
    assert "--partition=debug" in check["to_do"]


def test_a_job_that_leaves_no_answer(site, capsys):
    site(lost=True)
    assert doctor("--json", "--job") == 1
    check = only_check(capsys)
    assert check["found"] == "job 41 left no answer"
    assert "logs/doctor/41.log" in check["to_do"]


def test_a_job_that_is_refused(site, capsys):
    site(refuses=True)
    assert doctor("--json", "--job") == 1
    check = only_check(capsys)
    assert "Invalid account" in check["found"]
    assert "try by hand: sbatch" in check["to_do"]


def test_a_job_where_there_is_no_slurm(site, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(ranks, "check_ranks", lambda *_: Check("all-reduce", "ok", ""))
    assert doctor("--json", "--job") == 1
    assert "there is no sbatch" in only_check(capsys)["found"]
