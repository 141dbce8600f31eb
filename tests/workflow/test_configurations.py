"""Snakemake takes configurations as `rlhf config check` does, whatever its own reader makes."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.projects import Project


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that nothing was built in."""
    return Project.clone(tmp_path_factory.mktemp("bare") / "project")


def write(project: Project, old: str, new: str) -> str:
    """A configuration that differs from the tiny one in one place."""
    text = (project.folder / project.config).read_text()
    assert text.count(old) >= 1
    path = project.folder / "config" / "mine.yaml"
    path.write_text(text.replace(old, new, 1))
    return "config/mine.yaml"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "  chat:\n",
            "  chat: {model: tiny, data: {demo: {}}}\n  chat:\n",
            "The key 'sft.chat' stands twice",
        ),
        ("  chat:\n", "  no:\n", 'sft.no: a name has to be text (write "no" in quotes)'),
        (
            "    model: tiny\n",
            "    model: tiny\n    global_batch_size: yes\n",
            "sft.chat.global_batch_size: should be a whole number (got yes)",
        ),
        (
            "    model: tiny\n",
            "    model: tiny\n    epochs: 010\n",
            "010 is one number to some readers of YAML and another to others",
        ),
        (
            "    path: demo/trees.jsonl",
            "    path: $RLHF_NOT_SET/trees.jsonl",
            "datasets.demo.path: the variable RLHF_NOT_SET is not set",
        ),
        ("  chat:\n", f"  {'ab' * 20}:\n", "repeats 'ab' 20 times or more"),
    ],
)
def test_both_refuse_the_same(bare: Project, old: str, new: str, expected: str) -> None:
    name = write(bare, old, new)
    check = bare.rlhf("config", "check", name)
    assert check.returncode == 2
    assert expected in check.stderr

    planner = Project(bare.folder)
    planner.config = name
    plan = planner.snakemake("--dry-run", check=False)
    text = plan.stdout + plan.stderr
    assert plan.returncode == 1
    assert expected in text
    assert "Traceback" not in text


def test_options_of_snakemake_come_last(bare: Project) -> None:
    """They are YAML too, and add to the files key by key."""
    target = "results/sft/chat/manifest.json"
    plan = bare.snakemake(
        "--dry-run", target, "--config", "sft={chat: {epochs: true}}", check=False
    )
    assert plan.returncode == 1
    expected = "--config: sft.chat.epochs: should be a valid integer"
    assert expected in plan.stdout + plan.stderr
    plan = bare.snakemake(
        "--dry-run",
        "-p",
        target,
        "--config",
        "sft={chat: {epochs: 7}}",
        "runtime={track_code: false}",
    )
    assert "code:untracked" in plan.stdout
    assert '"epochs":7' in plan.stdout
    assert '"learning_rate":0.001' in plan.stdout


def test_a_key_of_two_files_is_replaced(bare: Project) -> None:
    """A key may stand in several files: it is within one that it may not stand twice."""
    more = bare.folder / "config" / "more.yaml"
    more.write_text("sft: {chat: {epochs: 7}}\n")
    planner = Project(bare.folder)
    planner.overlays = [str(more.relative_to(bare.folder))]
    plan = planner.snakemake("--dry-run", "-p", "results/sft/chat/manifest.json")
    assert '"epochs":7' in plan.stdout


def test_what_a_home_stands_for_is_read_and_recorded(
    bare: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.jsonl").write_bytes((bare.folder / "demo/trees.jsonl").read_bytes())
    planner = Project(bare.folder)
    planner.config = write(bare, "path: demo/trees.jsonl", "path: ~/mine.jsonl")
    plan = planner.snakemake("--dry-run", "-p", "results/datasets/demo/manifest.json")
    assert f'"path":"{tmp_path}/mine.jsonl"' in plan.stdout
    assert '"content":' in plan.stdout
