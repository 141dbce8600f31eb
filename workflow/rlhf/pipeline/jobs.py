"""From the configuration to a job: its resources, and the options of its launcher and stage."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Iterator
from pathlib import Path

from rlhf import paths
from rlhf.catalog import RULES, subject
from rlhf.config.cluster import Rule, served_models, stage_layout
from rlhf.config.schema import Config
from rlhf.data.formats.source import module_of
from rlhf.launch.images import image_id, image_path
from rlhf.pipeline.needs import abilities, longest_rows
from rlhf.pipeline.plan import plan
from rlhf.pipeline.resources import Resources, stage_resources
from rlhf.pipeline.server_memory import spread_servers
from rlhf.pipeline.slices import config_slice, local_source
from rlhf.provenance.code import digest_code
from rlhf.sources.addresses import read_addresses
from rlhf.sources.locks import config_files, lock_path


def resource_names(config: Config, rule: Rule) -> list[str]:
    """What ``job_resources`` names for every job of a rule."""
    own = plugin_resources(stage_resources(config, rule), config.cluster.gpu_type)
    row = RULES[rule]
    training = ["training"] if row.trains else []
    return [*own, "launch", *training, *(["needs"] if row.checks_model else [])]


def job_resources(config: Config, rule: Rule, *wildcards: str) -> dict[str, int | str]:
    """All that a job asks for, and how it is carried out; nothing that changes its result.

    Args:
        config: the whole configuration.
        rule: the job's rule.
        wildcards: the job's.
    """
    row, name = RULES[rule], wildcards[0]
    requested = stage_resources(config, rule, ".".join(wildcards))
    own = plugin_resources(requested, config.cluster.gpu_type)
    own["launch"] = launch_options(config, rule, *wildcards)
    if row.trains:
        own["training"] = training_options(config, rule, name)
    if row.checks_model:
        own["needs"] = needs_options(config, rule, *wildcards)
    return own


def plugin_resources(requested: Resources, gpu_type: str = "") -> dict[str, int | str]:
    """A job's resources under the names that Snakemake's SLURM plugin reads.

    Args:
        requested: what the job asks for.
        gpu_type: SLURM's name for the GPUs' type; empty: any.
    """
    names: dict[str, int | str] = {
        "nodes": requested.nodes,
        "tasks": requested.nodes,
        # With this key, even empty, the job runs right in the batch step: the launcher calls srun.
        "mpi": "srun" if requested.nodes > 1 else "",
        "mem_mb": requested.mem_mb,
        "runtime": requested.runtime,
        "total_gpus": requested.nodes * requested.gpus,  # counts towards the profile's cap
    }
    if not requested.gpus:
        return names
    names["tasks_per_gpu"] = 0  # or `tasks` would become tasks for each GPU
    if requested.nodes > 1:  # `--gpus` would be spread over the nodes as SLURM likes
        names["gres"] = ":".join(filter(None, ("gpu", gpu_type, str(requested.gpus))))
    else:
        names |= {"gpu": requested.gpus} | ({"gpu_model": gpu_type} if gpu_type else {})
    return names


def launch_options(config: Config, rule: Rule, *wildcards: str) -> str:
    """Options of ``rlhf launch`` for a job, without those that the launcher defaults to.

    Args:
        config: the whole configuration.
        rule: the job's rule.
        wildcards: the job's.
    """
    row, name = RULES[rule], wildcards[0]
    requested = stage_resources(config, rule, ".".join(wildcards))
    several = max(requested.processes, requested.gpus) > 1  # a single rank may have all GPUs
    options: list[tuple[str, object]] = [
        ("nodes", requested.nodes if requested.nodes > 1 else 0),
        ("processes", requested.processes if several else 0),
        ("gpus", requested.gpus),
        ("server-gpus", requested.server_gpus),
        ("threads", requested.threads),
    ]
    if requested.servers or requested.samplers:
        options += [("server-threads", config.runtime.server_threads)]
    if requested.servers:
        options += [("spread", server) for server in spread_servers(config, row.section, name)]
        options += [
            ("serve", f"{server}={paths.store(*model) / 'repository'}")
            for server, model in served_models(config, row.section, name).items()
        ]
    if requested.samplers:
        options += _sampler_options(config, row.section, name)
    options += [("state", paths.state(rule, *wildcards))]
    if config.runtime.containers != "none":
        ours, *others = images(config, rule, name)
        options += [("image", image_path(ours))]
        options += [(f"{kind}-image", image_path(kind)) for kind in others]
        options += [("bind", folder) for folder in _folders_outside(config, rule, name)]
    return " ".join(f"--{key} {shlex.quote(str(value))}" for key, value in options if value)


def _sampler_options(config: Config, section: str, name: str) -> list[tuple[str, object]]:
    """Options of ``rlhf launch`` for the sampler of an on-policy run."""
    run = getattr(config, section)[name]
    longest = config.tokenization.prompt.max_length + run.sampling.max_new_tokens
    return [
        ("sampler", paths.artifact(*config.start(section, name)) / "model"),
        ("sampler-dtype", run.precision),
        ("sampler-length", longest),
    ]


def training_options(config: Config, rule: Rule, name: str) -> str:
    """Options of a training stage that are no part of what it learns."""
    engine = plan(config, rule, name).engine
    options = (
        f"--state {paths.state(rule, name)} --save-steps {config.runtime.save_steps}"
        f" --save-seconds {config.runtime.save_seconds:g}"
        f" --save-margin {config.cluster.save_margin_seconds:g}"
        f" --micro-batch-tokens {config.runtime.micro_batch_tokens}"
        f" --engine {engine.kind} --shard {engine.shard} --offload {engine.offload}"
        f" --attention {engine.attention}"
    )
    options += " --activation-checkpointing" * engine.activation_checkpointing
    return options + " --deterministic" * config.runtime.deterministic


def needs_options(config: Config, rule: Rule, *wildcards: str) -> str:
    """What a model has to be able to do, in this stage and in later ones."""
    model = config.base_model(*subject(rule, *wildcards))
    needs = [f"--rows {keys}={most}" for keys, most in longest_rows(config, model).items()]
    for ability, runs in abilities(config, model).items():
        needs += [f"--runs {ability}={run}" for run in runs]
    return " ".join(needs)


def images(config: Config, rule: Rule, name: str) -> list[str]:
    """Kinds of the images that a job runs in: the stage's own, then those of its servers."""
    own = RULES[rule].image
    layout = stage_layout(config, rule, name)
    return [own, *["serve"] * bool(layout.servers), *["sample"] * layout.samplers]


def code_id(config: Config, rule: Rule, name: str) -> str:
    """Identity of the code that a job runs; of the formats of datasets only its own counts."""
    if not config.runtime.track_code:
        return "code:untracked"  # Snakemake shows and compares values without their keys
    formats = (
        [module_of(str(config.datasets[name].format))] if RULES[rule].section == "datasets" else []
    )
    return f"code:{_digest_code(rule, *formats)}"


@functools.cache
def _digest_code(rule: Rule, *modules: str) -> str:
    return digest_code(f"stages.{rule}", also=modules)


def images_id(config: Config, rule: Rule, name: str) -> str:
    """Identity of the images that a job runs in."""
    if config.runtime.containers == "none":
        return "image:none"
    return image_id(*images(config, rule, name))


def _folders_outside(config: Config, rule: Rule, name: str) -> Iterator[Path]:
    """Folders that a job reads outside of the working directory: an image would not see them."""
    row = RULES[rule]
    read: list[Path | None]
    if row.online:
        read = [Path(file) for file in getattr(config, row.section)[name].function_files]
    elif row.fetches:
        values = config_slice(config, rule, name)
        url = values.get("source", {}).get("url")
        addresses = read_addresses(url) if url else []
        read = [
            local_source(values),
            *(one.local for one in addresses),
            *map(lock_path, config_files()),
        ]
    else:
        return
    folders = [one if one.is_dir() else one.parent for one in read if one]
    for folder in dict.fromkeys(one.resolve() for one in folders):
        if not folder.is_relative_to(Path.cwd()):
            yield folder
