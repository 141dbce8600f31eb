# What all rules share. Only the torch-free part of the package may be imported here: this file is
# read again in every job.

import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from rlhf import paths
from rlhf.catalog import DRAWING, EVALUATED, STORES, VIEWS
from rlhf.config.load import load_config_file
from rlhf.errors import RlhfError
from rlhf.pipeline import parents
from rlhf.pipeline.adopt import adopt_results
from rlhf.pipeline.jobs import code_id, images_id, job_resources, resource_names
from rlhf.pipeline.leftovers import refuse_running
from rlhf.pipeline.lost_jobs import see_lost_jobs
from rlhf.pipeline.preflight import Request, check
from rlhf.pipeline.quoted import quote_python
from rlhf.pipeline.resources import stage_resources
from rlhf.pipeline.slices import canonical_slice
from rlhf.pipeline.snakemakes import announce
from rlhf.runtime.forced import force
from rlhf.sources.locks import VARIABLE, Lock

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
        adopt_results(paths.RESULTS, Path(".snakemake"))
except RlhfError as error:
    raise WorkflowError(str(error)) from None

os.environ[VARIABLE] = LOCK.variable  # for the fetch stages


onstart:
    check_jobs()
    announce(Path(".snakemake"))  # for `rlhf recover`


wildcard_constraints:
    name="[A-Za-z0-9][A-Za-z0-9_-]*",
    model="[A-Za-z0-9][A-Za-z0-9_-]*",
    dataset="[A-Za-z0-9][A-Za-z0-9_-]*",
    view="|".join(VIEWS),
    kind="|".join(STORES),
    run=f"({'|'.join(DRAWING)})[.][A-Za-z0-9][A-Za-z0-9_-]*",


# How every command begins: with the launcher, and the stage that is called like the rule.
STAGE = (
    "rlhf launch {resources.launch} --log {log} -- rlhf.stages.{rule} --log {log}"
    " --config {params.config:q} --code '{params.code}' --image '{params.image}'"
)


def get_params(rule):
    """What decides a job's result beside its parents: its configuration, code and image."""

    def config(wildcards):
        try:
            return canonical_slice(CONFIG, rule, *wildcards, lock=LOCK)
        except RlhfError as error:
            raise WorkflowError(str(error)) from None

    return {
        "config": config,
        "code": lambda wildcards: code_id(CONFIG, rule, wildcards[0]),
        "image": lambda wildcards: images_id(CONFIG, rule, wildcards[0]),
    }


def get_threads(rule):
    """CPUs that a job keeps busy on each node."""
    return lambda wildcards: stage_resources(CONFIG, rule, ".".join(wildcards)).cpus


def get_resources(rule):
    """What a job asks for, and how it is carried out."""

    def resource(name):
        return lambda wildcards: job_resources(CONFIG, rule, *wildcards)[name]

    return {name: resource(name) for name in resource_names(CONFIG, rule)}


def check_jobs():
    """Before anything is submitted: refuse what can't run here, or runs already."""
    jobs = [job for job in workflow.dag.needrun_jobs() if job.rule.name != "all"]
    titles = {job: (job.rule.name, *job.wildcards) for job in jobs}
    try:
        wanted = {titles[job]: list(job.output) for job in jobs}
        refuse_running(paths.STATE, Path.cwd().resolve(), wanted)
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
            force(paths.state(*titles[job]))


def is_forced(job):
    """Whether the command line forces a job.

    Its reason does not say: that is another where its parents run too. Nor do the files that
    Snakemake forces: those of a job that was cut off are among them.
    """
    settings = workflow.dag_settings
    named = {*settings.forcerun, *(settings.targets if settings.forcetargets else ())}
    forced = {os.path.relpath(one) for one in named}
    return settings.forceall or not forced.isdisjoint({job.rule.name, *job.output})


def of_run(parents_of, section, *more):
    """What `parents_of` says of the run of a section that `{name}` stands for."""
    return lambda wildcards: parents_of(CONFIG, section, wildcards.name, *more)


def of_named_run(parents_of):
    """What `parents_of` says of the run that `{run}` stands for, such as `sft.chat`."""
    return lambda wildcards: parents_of(CONFIG, *wildcards.run.split("."))


def start(section):
    """Manifest of what a run starts from; of an evaluation, the run that it evaluates."""
    return of_run(parents.start, section)


def started(section, other):
    """Manifest of what a run starts from, if that is of the other section; else none."""
    return of_run(parents.started, section, other)


def base(section):
    """Manifest of the base model that a run goes back to."""
    return of_run(parents.base, section)


def parent(section, key):
    """Manifest of the artifact that a run, or what it starts from, names under a key, if any."""
    return of_run(parents.parent, section, key)


def own_parent(section, key):
    """Manifest of the artifact that a run names under a key; none if it names none."""
    return of_run(parents.own_parent, section, key)


def bases(section):
    """Manifests of what the models that a run reads stand on, where they are adapters alone."""
    return of_run(parents.bases, section)


def tokenized(section, role="train"):
    """Manifests of the tokenized sets that a run trains on, or needs held-out rows of."""
    return of_run(parents.tokenized, section, role)


def mixed(section):
    """Manifests of the tokenized sets that a run learns from beside its prompts."""
    return of_run(parents.mixed, section)


def rows(section):
    """Manifests of the datasets that a run draws from."""
    return of_run(parents.rows, section)


def duplicates(section):
    """Manifest of the list of rows that a run leaves out; none when it keeps them all."""
    return of_run(parents.duplicates, section)


def stores(section):
    """Manifests of the model stores that serve a run; none when it scores in-process."""
    return of_run(parents.stores, section)


def stored(wildcards):
    """Manifest of the model that a store serves."""
    return parents.stored(wildcards.kind, wildcards.name)


def stored_bases(wildcards):
    """Manifests of what that model stands on, where it is an adapter alone."""
    return parents.stored_bases(CONFIG, wildcards.kind, wildcards.name)


def reported(section):
    """Manifests of the runs of a section that a report is about."""
    return lambda wildcards: parents.reported(CONFIG, wildcards.name, section)


def checked(section):
    """Nothing; but a run that is not there yet waits until `check_rows` has been content.

    A file that is waited for would be an input: a run would be stale when another one is added.
    """

    def inputs(wildcards):
        manifest = Path(parents.manifest(section, wildcards.name))
        if workflow.is_main_process and not manifest.exists():
            checkpoints.check_rows.get(run=f"{section}.{wildcards.name}")
        return []

    return inputs
