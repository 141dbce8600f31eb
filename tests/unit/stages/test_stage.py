"""The command line that all stages share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.core.digest import digest_file
from rlhf.stages.stage import Stage, parse


def stage(*arguments: str) -> Stage:
    line = ["--name", "x", "--config", "{}", "--output", "manifest", "x/manifest.json"]
    return parse([*line, *arguments])[0]


def test_a_role_has_one_path_or_several_and_an_empty_list_is_none() -> None:
    own = stage("--input", "data", "a", "b", "--input", "duplicates", "--input", "start", "c")
    assert own.inputs == {"data": [Path("a"), Path("b")], "start": [Path("c")]}
    assert own.outputs == {"manifest": Path("x/manifest.json")}


KERNELS = """
import sys, torch
from rlhf.stages.stage import parse
from rlhf.stages.training import begin
from rlhf.training.determinism import seed_everything
stage, _ = parse(sys.argv[1:])
begin(stage.deterministic)
seed_everything(1)
try:
    torch.zeros(2).put_(torch.tensor([0, 0]), torch.ones(2))  # has no deterministic kernel
    print("ran")
except RuntimeError as error:
    print("deterministic" in str(error))
"""


@pytest.mark.parametrize(("option", "found"), [([], "ran"), (["--deterministic"], "True")])
def test_deterministic_kernels_alone_where_they_are_asked_for(
    option: list[str], found: str
) -> None:
    line = ["--name", "x", "--config", "{}", "--output", "manifest", "x/manifest.json", *option]
    done = subprocess.run(
        [sys.executable, "-c", KERNELS, *line], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == found


def test_an_output_has_exactly_one_path(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        stage("--output", "model")
    assert "expected 2 arguments" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("artifacts", "keys"),
    [
        (["store/reward/a"], ["store"]),
        (["store/reward/a", "store/reference/b"], ["store:a", "store:b"]),
        (
            ["store/reward/a", "store/reference/a"],
            ["store:store/reward/a", "store:store/reference/a"],
        ),
    ],
)
def test_no_parent_takes_the_place_of_another(
    artifacts: list[str], keys: list[str], tmp_path: Path
) -> None:
    manifests = [tmp_path / artifact / "manifest.json" for artifact in artifacts]
    for manifest in manifests:
        manifest.parent.mkdir(parents=True)
        manifest.write_text(str(manifest))
    parents = stage("--input", "store", *map(str, manifests)).parents()
    assert parents == dict(zip(keys, map(digest_file, manifests), strict=True))


def test_runs_are_named_by_what_they_need() -> None:
    own = stage("--runs", "sampling=ppo.a", "--runs", "scores=reward.b", "--runs", "sampling=ppo.c")
    assert own.runs == {"sampling": ["ppo.a", "ppo.c"], "scores": ["reward.b"]}
