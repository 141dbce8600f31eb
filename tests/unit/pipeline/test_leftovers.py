"""What an earlier start left at work is not begun again."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from rlhf.errors import RlhfError
from rlhf.pipeline import leftovers
from rlhf.pipeline.leftovers import refuse_running
from rlhf.runtime import ownership

pytestmark = pytest.mark.usefixtures("no_launcher", "fake_slurm")

SFT, TOKENS = ("train_sft", "chat"), ("tokenize", "conversation", "tiny", "demo")


@pytest.fixture
def refuse(tmp_path, monkeypatch):
    """Asks whether what is wanted may begin."""
    monkeypatch.setattr(leftovers, "PATIENCE_SECONDS", 1.5)
    wanted = {SFT: [str(tmp_path / "sft/manifest.json")], TOKENS: [str(tmp_path / "set")]}
    return lambda: refuse_running(tmp_path / "state", tmp_path.resolve(), wanted)


@pytest.fixture
def when_it_waits(monkeypatch):
    """Does something as soon as a start waits for what is at work, which may take its time."""

    def arrange(action):
        def act(seconds):
            monkeypatch.setattr(leftovers, "time", time)
            action()

        monkeypatch.setattr(leftovers, "PATIENCE_SECONDS", 60.0)
        own = SimpleNamespace(monotonic=time.monotonic, sleep=act)  # other threads sleep as ever
        monkeypatch.setattr(leftovers, "time", own)

    return arrange


def job(project, comment, state):
    return {"id": "7", "state": state, "name": "x_0a1b2c3d-0000-4000-8000-0123456789ab",
            "nodes": "", "elapsed": "0:00", "folder": str(project), "comment": comment}  # fmt: skip


def test_nothing_is_at_work(refuse, tmp_path):
    refuse()
    ownership.claim(tmp_path / "state/train_sft/chat", ownership.new_attempt()).release()
    refuse()
    with ownership.claim(tmp_path / "state/train_sft/other", ownership.new_attempt()):
        refuse()


@pytest.mark.parametrize("folder", ["train_sft/chat", "tokenize/conversation.tiny.demo"])
def test_an_attempt_that_lives_is_left_alone(refuse, tmp_path, folder):
    with ownership.claim(tmp_path / "state" / folder, ownership.new_attempt()):
        with pytest.raises(RlhfError, match="at work already") as caught:
            refuse()
        assert "rlhf recover --wait" in str(caught.value)
    refuse()


def test_one_that_ends_soon_is_waited_for(refuse, when_it_waits, tmp_path):
    when_it_waits(
        ownership.claim(tmp_path / "state/train_sft/chat", ownership.new_attempt()).release
    )
    refuse()


def test_what_it_publishes_meanwhile_is_kept(refuse, when_it_waits, tmp_path):
    owned = ownership.claim(tmp_path / "state/train_sft/chat", ownership.new_attempt())

    def publish():
        (tmp_path / "sft").mkdir()
        (tmp_path / "sft/manifest.json").write_text("{}")
        owned.release()

    when_it_waits(publish)
    with pytest.raises(RlhfError, match="has just finished") as caught:
        refuse()
    assert "sft/manifest.json" in str(caught.value)
    refuse()  # the next start takes it as it is


@pytest.mark.parametrize(
    "comment", ["rule_train_sft_wildcards_chat", "rule_tokenize_wildcards_conversation_tiny_demo"]
)
def test_a_job_that_waits_is_not_submitted_again(refuse, fake_slurm, tmp_path, comment):
    fake_slurm(job(tmp_path, comment, "PENDING"))
    with pytest.raises(RlhfError, match="at work already") as caught:
        refuse()
    assert "job 7 PENDING" in str(caught.value)
    fake_slurm(job(tmp_path.parent, comment, "PENDING"))  # another project's
    refuse()


def test_a_job_that_slurm_ends_is_waited_for(refuse, fake_slurm, tmp_path):
    fake_slurm(job(tmp_path, "rule_train_sft_wildcards_chat", "COMPLETING"))
    timer = threading.Timer(3, fake_slurm)  # longer than anything else is waited for
    timer.start()
    began = time.monotonic()
    refuse()
    timer.join()
    assert time.monotonic() - began > 2.5
