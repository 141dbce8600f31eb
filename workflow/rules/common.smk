# What all rules share. Only the torch-free part of the package may be imported here: this file is
# read again in every job.

import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from rlhf.adopt import adopt_results
from rlhf.config import load_config
from rlhf.config.slices import canonical_slice
from rlhf.errors import RlhfError
from rlhf.provenance.digest import digest_code

# `python` and `rlhf` in shell commands are those beside this snakemake, activated or not.
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()])
)

try:
    CONFIG = load_config(config, ", ".join(map(str, workflow.configfiles)) or "config")
    if workflow.is_main_process:
        adopt_results(Path("results"), Path(".snakemake"))
except RlhfError as error:
    raise WorkflowError(str(error)) from None


wildcard_constraints:
    name="[A-Za-z0-9][A-Za-z0-9_-]*",
    model="[A-Za-z0-9][A-Za-z0-9_-]*",
    dataset="[A-Za-z0-9][A-Za-z0-9_-]*",
    view="sft|preference|prompt",


def get_config(stage, key="name"):
    """The stage's own slice of the configuration, as canonical JSON."""
    return lambda wildcards: canonical_slice(CONFIG, stage, wildcards[key])


def get_code(stage):
    """Digest of the code that a stage runs."""
    digest = (
        digest_code(f"stages.{stage}") if CONFIG.runtime.track_code else "untracked"
    )
    return f"code:{digest}"  # Snakemake shows and compares values without their keys


def get_image(kind):
    """Identity of the container image of a kind of stage."""
    return "image:none"


def get_tokenized(view, section):
    """Manifests of the tokenized sets that a run draws from."""

    def inputs(wildcards):
        run = getattr(CONFIG, section)[wildcards.name]
        model = get_base_model(section, wildcards.name)
        folder = f"results/tokenized/{view}/{model}"
        return [f"{folder}/{dataset}/manifest.json" for dataset in run.data]

    return inputs


def get_base_model(section, name):
    """Name of the base model that a run goes back to."""
    run = getattr(CONFIG, section)[name]
    return run.model if section == "sft" else CONFIG.sft[run.sft].model


def get_parent(kind, section, key):
    """Manifest of the artifact that a run names under `key`."""
    return lambda wildcards: (
        f"results/{kind}/{getattr(getattr(CONFIG, section)[wildcards.name], key)}/manifest.json"
    )


def get_stores(wildcards):
    """Manifests of the model stores that serve a PPO run; none when it scores in-process."""
    run = CONFIG.ppo[wildcards.name]
    if run.scoring == "local":
        return []
    return [
        f"results/store/reward/{run.reward}/manifest.json",
        f"results/store/reference/{run.sft}/manifest.json",
    ]


def get_servers(wildcards):
    """Launcher options that start the model servers of a PPO run."""
    if CONFIG.ppo[wildcards.name].scoring == "local":
        return ""
    run = CONFIG.ppo[wildcards.name]
    return (
        f"--serve reward=results/store/reward/{run.reward}/repository"
        f" --serve reference=results/store/reference/{run.sft}/repository"
        f" --server-threads {CONFIG.runtime.server_threads}"
    )


def get_evaluated(kind):
    """Manifest of an artifact that the evaluated PPO run goes back to."""

    def inputs(wildcards):
        run = CONFIG.ppo[CONFIG.evaluation[wildcards.name].ppo]
        if kind == "models":
            return f"results/models/{CONFIG.sft[run.sft].model}/manifest.json"
        return f"results/{kind}/{getattr(run, kind)}/manifest.json"

    return inputs


def get_evaluation_prompts(wildcards):
    """Manifests of the tokenized prompts that the evaluated PPO run draws from."""
    run = CONFIG.ppo[CONFIG.evaluation[wildcards.name].ppo]
    model = CONFIG.sft[run.sft].model
    return [
        f"results/tokenized/prompt/{model}/{dataset}/manifest.json"
        for dataset in run.data
    ]


def get_rows(section):
    """Manifests of the datasets that the prompts of a PPO run, or of one's evaluation, are from."""

    def inputs(wildcards):
        name = wildcards.name
        run = CONFIG.ppo[name if section == "ppo" else CONFIG.evaluation[name].ppo]
        return [f"results/datasets/{dataset}/manifest.json" for dataset in run.data]

    return inputs


def get_reported(kind):
    """Manifests of one kind behind a report's evaluations, each once."""

    def inputs(wildcards):
        evaluations = CONFIG.report[wildcards.name].evaluations
        if kind == "evaluation":
            names = evaluations
        else:
            names = [CONFIG.evaluation[name].ppo for name in evaluations]
            if kind != "ppo":
                names = [getattr(CONFIG.ppo[name], kind) for name in names]
        return [f"results/{kind}/{name}/manifest.json" for name in dict.fromkeys(names)]

    return inputs


def get_targets():
    """Every run that the configuration names, and so all that they need."""
    sections = ("sft", "reward", "ppo", "evaluation", "report")
    return [
        f"results/{section}/{name}/manifest.json"
        for section in sections
        for name in getattr(CONFIG, section)
    ]
