# What all rules share. Only the torch-free part of the package may be imported here: this file is
# read again in every job.

import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from rlhf.pipeline.adopt import adopt_results
from rlhf.config.load import load_config_file
from rlhf.config.cluster import stage_resources
from rlhf.pipeline.following import SETS
from rlhf.pipeline.slices import canonical_slice, config_slice
from rlhf.data.formats.source import module_of
from rlhf.errors import RlhfError
from rlhf.launch.images import image_id
from rlhf.pipeline.jobs import images, job_resources, resource_names, state_folder
from rlhf.sources.locks import VARIABLE, Lock
from rlhf.pipeline.lost_jobs import see_lost_jobs
from rlhf.pipeline.preflight import Request, check
from rlhf.provenance.code import digest_code
from rlhf.pipeline.quoted import quote_python
from rlhf.pipeline.leftovers import refuse_running
from rlhf.runtime.forced import force
from rlhf.pipeline.snakemakes import announce

# `python` and `rlhf` in shell commands are those beside this snakemake, activated or not.
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()])
)

quote_python()

try:
    # Snakemake's own reader takes `no` for False, and forgets the first of two equal keys.
    CONFIG = load_config_file(
        *workflow.configfiles, more=workflow.config_settings.config
    )
    LOCK = Lock(workflow.configfiles)
    if workflow.is_main_process:
        adopt_results(Path("results"), Path(".snakemake"))
except RlhfError as error:
    raise WorkflowError(str(error)) from None

os.environ[VARIABLE] = LOCK.variable  # for the fetch stages


# These need a network, or next to nothing.
localrules:
    fetch_model,
    fetch_data,
    check_rows,
    report,


onstart:
    check_jobs()
    announce(Path(".snakemake"))  # for `rlhf recover`


wildcard_constraints:
    name="[A-Za-z0-9][A-Za-z0-9_-]*",
    model="[A-Za-z0-9][A-Za-z0-9_-]*",
    dataset="[A-Za-z0-9][A-Za-z0-9_-]*",
    view="sft|preference|prompt",
    run="(sft|reward|ppo)[.][A-Za-z0-9][A-Za-z0-9_-]*",


def get_config(stage, key="name"):
    """The stage's own slice of the configuration, as canonical JSON."""

    def config(wildcards):
        try:
            return canonical_slice(CONFIG, stage, wildcards[key], LOCK)
        except RlhfError as error:
            raise WorkflowError(str(error)) from None

    return config


def get_code(stage, *modules):
    """Digest of the code that a stage runs; `modules` are those that it imports by name."""
    digest = "untracked"
    if CONFIG.runtime.track_code:
        digest = digest_code(f"stages.{stage}", also=modules)
    return f"code:{digest}"  # Snakemake shows and compares values without their keys


def get_data_code(wildcards):
    """Digest of the code that makes a dataset: that of other formats does not count."""
    return get_code("fetch_data", module_of(CONFIG.datasets[wildcards.dataset].format))


def get_image(stage):
    """Identity of the container images that a stage runs in."""
    if CONFIG.runtime.containers == "none":
        return "image:none"
    return lambda wildcards: image_id(*images(CONFIG, stage, wildcards[0]))


def get_threads(stage):
    """CPUs that a job of a stage keeps busy on each node."""
    return lambda wildcards: stage_resources(CONFIG, stage, wildcards[0]).cpus


def get_resources(stage):
    """What a job of a stage asks for, and how it is carried out."""

    def resource(name):
        return lambda wildcards: job_resources(CONFIG, stage, *wildcards)[name]

    return {name: resource(name) for name in resource_names(CONFIG, stage)}


def check_jobs():
    """Before anything is submitted: refuse what can't run here, or runs already."""
    jobs = [job for job in workflow.dag.needrun_jobs() if job.rule.name != "all"]
    titles = {job: (job.rule.name, *job.wildcards) for job in jobs}
    try:
        wanted = {titles[job]: list(job.output) for job in jobs}
        refuse_running(Path("state"), Path.cwd().resolve(), wanted)
    except RlhfError as error:
        raise WorkflowError(str(error)) from None
    submitted = [job for job in jobs if not workflow.is_local(job.rule)]
    if submitted:
        see_lost_jobs()
    cap = workflow.global_resources.get("total_gpus")
    try:
        notes = check(
            CONFIG,
            {(job.rule.name, job.wildcards[0]) for job in jobs},
            [Request.read(job.rule.name, job.resources) for job in submitted],
            getattr(workflow.executor_settings, "status_command", ""),
            float("inf") if cap is None else cap.value,
        )
    except RlhfError as error:
        raise WorkflowError(str(error)) from None
    for note in notes:
        logger.info(note)
    for job in jobs:
        if is_forced(job):
            force(Path(state_folder(*titles[job])))


def is_forced(job):
    """Whether the command line forces a job.

    Its reason does not say: that is another where its parents run too. Nor do the files that
    Snakemake forces: those of a job that was cut off are among them.
    """
    settings = workflow.dag_settings
    named = {*settings.forcerun, *(settings.targets if settings.forcetargets else ())}
    forced = {os.path.relpath(one) for one in named}
    return settings.forceall or not forced.isdisjoint({job.rule.name, *job.output})


def get_tokenized(view, section):
    """Manifests of the tokenized sets that a run draws from."""

    def inputs(wildcards):
        run = getattr(CONFIG, section)[wildcards.name]
        model = CONFIG.base_model(section, wildcards.name)
        folder = f"results/tokenized/{view}/{model}"
        return [f"{folder}/{dataset}/manifest.json" for dataset in run.data]

    return inputs


def get_duplicates(section):
    """Manifest of the list of rows that a run leaves out; none when it keeps them all."""

    def inputs(wildcards):
        name = wildcards.name
        if getattr(CONFIG, section)[name].duplicates.remove == "none":
            return []
        return [f"results/duplicates/{section}.{name}/manifest.json"]

    return inputs


def await_rows(section):
    """Nothing; but a run that is not there yet waits until `check_rows` has been content.

    A file that is waited for would be an input: a run would be stale when another one is added.
    """

    def inputs(wildcards):
        manifest = Path(f"results/{section}/{wildcards.name}/manifest.json")
        if workflow.is_main_process and not manifest.exists():
            checkpoints.check_rows.get(run=f"{section}.{wildcards.name}")
        return []

    return inputs


def get_needed_sets(wildcards):
    """Manifests of the tokenized sets that a run and those that build on it need rows of."""
    runs = config_slice(CONFIG, "check_rows", wildcards.run)["runs"].values()
    needed = [
        f"results/tokenized/{needs[key]}/{dataset}/manifest.json"
        for needs in runs
        for key in SETS
        if key in needs
        for dataset in needs["data"]
    ]
    return list(dict.fromkeys(needed))


def get_needed_duplicates(wildcards):
    """Manifests of the lists of rows that these runs leave out."""
    runs = [
        one.split(".")
        for one in config_slice(CONFIG, "check_rows", wildcards.run)["runs"]
    ]
    return [
        f"results/duplicates/{section}.{name}/manifest.json"
        for section, name in runs
        if section != "evaluation"
        and getattr(CONFIG, section)[name].duplicates.remove != "none"
    ]


def get_run_rows(wildcards):
    """Manifests of the datasets of a run, which is named with its section."""
    section, name = wildcards.run.split(".")
    run = getattr(CONFIG, section)[name]
    return [f"results/datasets/{dataset}/manifest.json" for dataset in run.data]


def get_start(section):
    """Manifest of the base model or SFT run that a run starts from."""
    return lambda wildcards: (
        "results/{}/{}/manifest.json".format(*CONFIG.start(section, wildcards.name))
    )


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


def get_evaluated(kind):
    """Manifest of an artifact that the evaluated PPO run goes back to."""

    def inputs(wildcards):
        ppo = CONFIG.evaluation[wildcards.name].ppo
        if kind == "models":
            return f"results/models/{CONFIG.base_model('ppo', ppo)}/manifest.json"
        return f"results/{kind}/{getattr(CONFIG.ppo[ppo], kind)}/manifest.json"

    return inputs


def get_evaluation_prompts(wildcards):
    """Manifests of the tokenized prompts that the evaluated PPO run draws from."""
    ppo = CONFIG.evaluation[wildcards.name].ppo
    folder = f"results/tokenized/prompt/{CONFIG.base_model('ppo', ppo)}"
    return [f"{folder}/{dataset}/manifest.json" for dataset in CONFIG.ppo[ppo].data]


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
