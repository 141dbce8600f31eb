"""The workflow as its users meet it: set up, reading, errors, reports."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.projects import REPOSITORY, Project

from rlhf.data.rows_file import read_rows
from rlhf.evaluation.sampling_report import prompt_text
from rlhf.training.metrics import read_jsonl

# Lints that are meant, with the reason.
ALLOWED_LINTS = {
    # A launcher has to own the process tree of a stage, so images come through it.
    "Specify a conda environment or container for each rule.",
    # Snakemake itself says which rule it is; so all commands begin alike.
    "Shell command directly uses variable rule from outside of the rule",
}


def test_lint_is_clean_but_for_what_is_meant(finished: Project) -> None:
    done = finished.snakemake("--lint", check=False)
    text = done.stdout + done.stderr
    assert "Lints for rule train_sft" in text
    titles = re.findall(r"^    \* (.+):$", text, re.M)
    assert set(titles) == ALLOWED_LINTS


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["snakefmt", "--check", "Snakefile", "workflow/rules"],
    ],
)
def test_source_is_clean(command: list[str]) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / command[0]), *command[1:]],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_reading_the_workflow_imports_no_torch(finished: Project) -> None:
    """The Snakefile is read again in every job."""
    smk = (REPOSITORY / "workflow/rules/common.smk").read_text()
    modules = re.findall(r"^from (rlhf\S*) import", smk, re.M)
    assert modules
    code = f"import sys, {', '.join(modules)}; print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=finished.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"torch", "transformers", "datasets", "pandas"} & set(eval(done.stdout))


def test_the_library_and_the_stages_know_nothing_of_slurm() -> None:
    package = REPOSITORY / "workflow/rlhf"
    for path in package.rglob("*.py"):
        own = path.relative_to(package).parts[0]
        if own not in {"launch", "runtime", "provenance"}:
            assert "SLURM_" not in path.read_text(), path


@pytest.mark.parametrize("profile", ["local", "profiles/local"])
def test_a_second_run_has_nothing_to_do(project: Project, profile: str) -> None:
    done = project.snakemake(profile=profile)
    assert "Nothing to be done" in done.stdout + done.stderr


def test_an_unknown_key_is_named_without_a_traceback(project: Project) -> None:
    project.replace(project.config, "max_new_tokens", "max_new_token")
    done = project.snakemake("--dry-run", check=False)
    text = done.stdout + done.stderr
    assert done.returncode == 1
    assert "ppo.final.sampling.max_new_token: unknown key; did you mean 'max_new_tokens'?" in text
    assert "Traceback" not in text


def test_a_bad_row_stops_the_pipeline_with_its_line(project: Project) -> None:
    trees = project.folder / "demo/trees.jsonl"
    lines = trees.read_text().splitlines()
    lines[41] = lines[41].replace('"rank": 1', '"rank": 0', 1)
    trees.write_text("\n".join(lines) + "\n")
    done = project.snakemake("results/datasets/demo/manifest.json", check=False)
    text = done.stdout + done.stderr
    assert done.returncode == 1
    assert "demo/trees.jsonl:42" in text
    assert "Traceback" not in text


def test_ppo_refuses_a_store_of_other_weights(project: Project) -> None:
    """Someone put another store in the place of the reference's."""
    store = project.folder / "results/store/reference/chat/repository/reference"
    weights = store / "1/hf/model.safetensors"
    config = store / "config.pbtxt"
    known = r'"identity.weights" value: { string_value: "(\w+)"'
    (digest,) = re.findall(known, config.read_text())
    config.write_text(config.read_text().replace(digest, "0" * 64))
    assert weights.is_file()
    (project.folder / "results/ppo/final/manifest.json").unlink()
    shutil.rmtree(project.folder / "state/train_ppo")
    done = project.snakemake("results/ppo/final/manifest.json", check=False)
    text = done.stdout + done.stderr
    assert done.returncode == 1
    assert "weights" in text
    assert "000000" in text
    assert "Traceback" not in text
    assert not (project.folder / "results/ppo/final/manifest.json").exists()


def test_snakemakes_own_report_holds_our_page(project: Project) -> None:
    page = project.folder / "snakemake-report.html"
    project.snakemake("--report", page.name)
    assert "results/report/final/report.html" in page.read_text()


def test_the_page_needs_no_network(finished: Project) -> None:
    page = (finished.folder / "results/report/final/report.html").read_text()
    assert not re.search(r"""(?:src|href)\s*=\s*["']?https?://""", page)
    assert "<svg" in page


def test_every_artifact_is_as_its_manifest_says(finished: Project) -> None:
    done = finished.rlhf("verify")
    assert done.returncode == 0, done.stdout
    assert "all as their manifests say" in done.stdout


def test_models_open_with_transformers_alone(finished: Project) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    results = finished.folder / "results"
    for name in ("models/tiny", "sft/chat", "ppo/final"):
        model = AutoModelForCausalLM.from_pretrained(results / name / "model")
        assert not any("value" in key for key in model.state_dict())
    judge = AutoModelForSequenceClassification.from_pretrained(results / "reward/helpful/model")
    assert judge.config.num_labels == 1


def test_sampling_report_has_open_assistants_form(finished: Project) -> None:
    file = finished.folder / "results/evaluation/final/sampling_report.json"
    report = json.loads(file.read_text())
    assert report.keys() == {"model_name", "date", "args", "prompts"}
    entry = report["prompts"][0]
    assert entry.keys() == {"prompt", "results"}
    assert entry["results"][0].keys() == {"sampling_config", "sampling_params", "outputs"}


def test_samples_show_the_conversations_of_the_dataset(finished: Project) -> None:
    results = finished.folder / "results"
    asked = [
        [{"role": message.role, "content": message.content} for message in row.history]
        for row in read_rows(results / "datasets/demo/rows", "prompt")
    ]
    side_by_side = json.loads((results / "evaluation/final/samples.json").read_text())
    report = json.loads((results / "evaluation/final/sampling_report.json").read_text())
    on_the_way = read_jsonl(results / "ppo/final/samples.jsonl")
    prompts = [sample["prompt"] for sample in [*side_by_side, *on_the_way]]
    assert all(prompt in asked for prompt in prompts)
    assert {len(prompt) for prompt in prompts} >= {1, 3}, "no prompt of several turns"
    assert [entry["prompt"] for entry in report["prompts"]] == [
        prompt_text(sample["prompt"]) for sample in side_by_side
    ]
    assert "<|im_" not in (results / "report/final/report.html").read_text()


def test_the_page_shows_how_sure_the_reward_model_may_be(finished: Project) -> None:
    from datasets import load_from_disk

    results = finished.folder / "results"
    evaluation = json.loads((results / "reward/helpful/evaluation.json").read_text())
    curve = evaluation["calibration"]
    pairs = [
        math.comb(len(row["reply_ids"]), 2)
        for row in load_from_disk(results / "tokenized/preference/tiny/demo/data/validation")
    ]
    assert sum(one["count"] for one in curve) == sum(pairs)
    page = (results / "report/final/report.html").read_text()
    assert 'aria-label="Calibration"' in page
    (agreement,) = evaluation["agreement"]["datasets"]
    assert (agreement["name"], agreement["pairs"]) == ("demo", sum(pairs))


def test_the_reward_model_says_what_it_was_calibrated_on(finished: Project) -> None:
    from datasets import load_from_disk

    results = finished.folder / "results"
    manifest = json.loads((results / "reward/helpful/manifest.json").read_text())
    held_out = load_from_disk(results / "tokenized/conversation/tiny/demo/data/validation")
    counts = manifest["counts"]["calibration"]
    assert counts["demonstrations"] == len(held_out) < 256
    assert 10 <= counts["prompts"] <= counts["different"] <= len(held_out)
    assert "warning" not in manifest["facts"]
    needed = json.loads((results / "rows/sft.chat/rows.json").read_text())
    assert needed["reward.helpful"]["demonstrations"] == len(held_out)
    assert needed["reward.helpful"]["train"] == manifest["counts"]["train_rows"]
