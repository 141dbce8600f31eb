"""The re-run matrix: for each change, exactly the rules that run again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from support.jobs import EVERYTHING, FROM_PPO, FROM_REWARD, FROM_SFT, LATE, STORES, VIEWS
from support.projects import TINY, Project


def edit_config(change: Callable[[dict], None]) -> Callable[[Project], None]:
    def edit(project: Project) -> None:
        path = project.folder / TINY
        values = yaml.safe_load(path.read_text())
        change(values)
        path.write_text(yaml.safe_dump(values, sort_keys=False))

    return edit


def edit_file(file: str, old: str, new: str) -> Callable[[Project], None]:
    return lambda project: project.replace(file, old, new)


def edit_files(*edits: tuple[str, str, str]) -> Callable[[Project], None]:
    def edit(project: Project) -> None:
        for file, old, new in edits:
            project.replace(file, old, new)

    return edit


def touch_everything(project: Project) -> None:
    for path in project.folder.rglob("*"):
        if path.is_file() and ".snakemake/" not in path.as_posix():
            os.utime(path)


def reorder(values: dict) -> None:
    def reverse(value):
        if isinstance(value, dict):
            return {key: reverse(value[key]) for key in reversed(list(value))}
        return value

    turned = reverse(values)
    values.clear()
    values.update(turned)


def set_key(path: str, value: object) -> Callable[[dict], None]:
    def change(values: dict) -> None:
        *sections, last = path.split(".")
        for section in sections:
            values = values.setdefault(section, {})
        values[last] = value

    return change


def swap_kl_and_clip(values: dict) -> None:
    """Two parameters of one stage trade values: the set of values stays the same."""
    run = values["ppo"]["final"]
    run["clip"], run["kl"]["coefficient"] = 0.1, 0.2


MATRIX: dict[str, tuple[Callable[[Project], None], set[str]]] = {
    "nothing": (lambda project: None, set()),
    "white space in README": (edit_file("README.md", "\n", "\n\n"), set()),
    "all files touched": (touch_everything, set()),
    "config keys reordered": (edit_config(reorder), set()),
    "more threads and other save times": (
        edit_config(lambda v: v["runtime"].update(save_seconds=7, micro_batch_tokens=512)),
        set(),
    ),
    "other nodes, memory and time limits": (
        edit_config(set_key("cluster", {"nodes": 2, "model_billions": 7.0, "max_hours": 9.0})),
        set(),
    ),
    "another engine": (
        edit_config(
            set_key(
                "cluster",
                {"engine": "fsdp", "activation_checkpointing": True, "attention": "eager"},
            )
        ),
        set(),
    ),
    "SFT learning rate": (edit_config(set_key("sft.chat.optimizer.learning_rate", 1e-4)), FROM_SFT),
    "fraction of SFT's dataset": (
        edit_config(set_key("sft.chat.data.demo", {"fraction": 0.5})),
        FROM_SFT,
    ),
    "fraction of PPO's dataset": (
        edit_config(set_key("ppo.final.data.demo", {"fraction": 0.5})),
        FROM_PPO,
    ),
    "size instead of SFT's whole dataset": (
        edit_config(set_key("sft.chat.data.demo", {"size": 9})),
        FROM_SFT,
    ),
    "held-out rows of the reward model": (
        edit_config(set_key("reward.helpful.data.demo", {"max_validation": 9})),
        FROM_REWARD,
    ),
    "duplicates of SFT's rows": (
        edit_config(set_key("sft.chat.duplicates", {"remove": "exact"})),
        {"find_duplicates"} | FROM_SFT,
    ),
    "stages' parts of the dataset": (
        edit_config(
            set_key("datasets.demo.stage_split", {"conversation": 2, "preference": 4, "prompt": 4})
        ),
        {"fetch_data"} | VIEWS | FROM_SFT,
    ),
    "reward model's L2": (edit_config(set_key("reward.helpful.score_l2", 0.01)), FROM_REWARD),
    "PPO KL coefficient": (edit_config(set_key("ppo.final.kl.coefficient", 0.3)), FROM_PPO),
    "two PPO parameters swapped": (edit_config(swap_kl_and_clip), FROM_PPO),
    "evaluation seed": (edit_config(set_key("evaluation.final.seed", 9)), LATE),
    "report title": (edit_config(set_key("report.final.title", "Other")), {"report"}),
    "prompt length": (
        edit_config(set_key("tokenization.prompt.max_length", 128)),
        # Stores are proven on rows as long as the longest.
        {"tokenize:prompt"} | STORES | FROM_PPO,
    ),
    "prompt length, a little": (
        edit_config(set_key("tokenization.prompt.max_length", 300)),
        {"tokenize:prompt"} | FROM_PPO,
    ),
    "a row of the dataset": (
        edit_file("demo/trees.jsonl", "Why is the sky blue", "Why is our sky blue"),
        # The tiny tokenizer is trained on the same file.
        EVERYTHING,
    ),
    "code in ppo/": (
        edit_file("workflow/rlhf/online/kl.py", "-0.2), 0.2)", "-0.25), 0.25)"),
        FROM_PPO,
    ),
    "a comment in ppo/": (
        edit_file("workflow/rlhf/online/kl.py", "import torch\n", "import torch  # tensors\n"),
        set(),
    ),
    "a docstring in ppo/": (
        edit_file("workflow/rlhf/online/kl.py", '"""KL estimators', '"""All KL estimators'),
        set(),
    ),
    "code that all training shares": (
        edit_file("workflow/rlhf/training/optim.py", "split = []", "split = list()"),
        FROM_SFT,
    ),
    "code that only tokenization uses": (
        edit_file("workflow/rlhf/data/tokenizing.py", "BATCH = 256", "BATCH = 128"),
        VIEWS | FROM_SFT,
    ),
    "what looks for rows": (
        edit_file("workflow/rlhf/data/enough.py", "FEW = 10", "FEW = 12"),
        FROM_SFT,
    ),
    "what carries a run out: terminal, TensorBoard, deadline, certificates, launcher": (
        edit_files(
            ("workflow/rlhf/runtime/progress.py", "every: float = 10.0", "every: float = 5.0"),
            ("workflow/rlhf/runtime/trackers.py", '!= "step"', 'not in ("step", "epoch")'),
            ("workflow/rlhf/runtime/deadline.py", "SAVING_SHARE = 0.05", "SAVING_SHARE = 0.1"),
            ("workflow/rlhf/runtime/tls.py", "days=366", "days=30"),
            ("workflow/rlhf/launch/worker.py", "code = 1\n", "code = 3\n"),
        ),
        set(),
    ),
    "sums over processes": (
        edit_file("workflow/rlhf/training/distributed.py", "dist.all_reduce(", "dist.reduce("),
        FROM_SFT,
    ),
    "what the journal of metrics holds": (
        edit_file("workflow/rlhf/training/metrics.py", 'b"\\n"', 'b" \\n"'),
        FROM_SFT,
    ),
    "what a key is said to mean": (
        edit_file("workflow/rlhf/config/evaluation.py", "sampling temperature", "temperature"),
        set(),
    ),
    "a bound of an evaluation's key": (
        edit_file("workflow/rlhf/config/evaluation.py", "256, ge=1", "256, ge=2"),
        LATE,
    ),
    "another PPO run": (
        edit_config(lambda v: v["ppo"].update(second=v["ppo"]["final"])),
        {"check_rows", "train_ppo"},  # nothing that is there
    ),
    "the served model file": (
        edit_file("workflow/rlhf/serving/model_files/model.py", "import ", "import math\nimport "),
        STORES | FROM_PPO,
    ),
    "PPO's manifest deleted": (
        lambda project: (project.folder / "results/ppo/final/manifest.json").unlink(),
        FROM_PPO,
    ),
    "SFT's manifest deleted": (
        lambda project: (project.folder / "results/sft/chat/manifest.json").unlink(),
        FROM_SFT,
    ),
}


@pytest.mark.parametrize("change", MATRIX)
def test_reruns_exactly(change: str, project: Project) -> None:
    apply, expected = MATRIX[change]
    apply(project)
    assert project.would_run() == expected


def test_two_parameters_swapped_again(project: Project) -> None:
    """Snakemake compares parameters as a set; one canonical text keeps what belongs to what."""

    def lengths(prompts: int, tokens: int) -> Callable[[Project], None]:
        wanted = {"max_prompts": prompts, "max_new_tokens": tokens}
        return edit_config(lambda values: values["evaluation"]["final"].update(wanted))

    lengths(16, 8)(project)
    project.snakemake("results/evaluation/final/manifest.json")
    lengths(8, 16)(project)
    assert project.would_run() == LATE


@pytest.mark.parametrize("kept", ["times preserved", "times scrambled"])
def test_results_copied_into_a_fresh_clone(finished: Project, tmp_path: Path, kept: str) -> None:
    clone = finished.fresh_clone(tmp_path / "clone")
    if kept == "times scrambled":
        manifests = sorted((clone.folder / "results").rglob("*"), reverse=True)
        for i, path in enumerate(manifests):
            os.utime(path, (1_000_000_000 + i, 1_000_000_000 + i))
    assert clone.would_run() == set()


def test_changes_are_seen_in_results_copied_into_a_fresh_clone(
    finished: Project, tmp_path: Path
) -> None:
    clone = finished.fresh_clone(tmp_path / "clone")
    edit_config(set_key("ppo.final.kl.coefficient", 0.3))(clone)
    assert clone.would_run() == FROM_PPO


def test_a_corrupted_file_is_named_by_verify(project: Project) -> None:
    weights = project.folder / "results/sft/chat/model/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = project.rlhf("verify")
    assert done.returncode == 1
    named = [
        line for line in done.stdout.splitlines() if "sft/chat/model/model.safetensors" in line
    ]
    assert len(named) == 1
    assert "sha256" in named[0]


def test_an_identical_rerun_stops_there(project: Project) -> None:
    """A stage that ran again to the same manifest makes nothing downstream stale."""
    (project.folder / "results/sft/chat/manifest.json").unlink()
    project.snakemake("results/sft/chat/manifest.json")
    assert project.would_run() == set()
