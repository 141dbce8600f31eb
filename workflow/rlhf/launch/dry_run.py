"""What ``rlhf launch --dry-run`` prints: every process that would run, and what it would see."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from rlhf.launch.allocation import Allocation
from rlhf.launch.containers import Environment, environments, python_command
from rlhf.launch.coordinator import srun_command
from rlhf.launch.options import SAMPLER, Options, agent_arguments
from rlhf.launch.ranks import Rendezvous, common_variables, rank_command, rank_variables
from rlhf.launch.topology import plan

# What is known only when it runs.
SCRATCH, EXIT_CODES = Path("/SCRATCH"), Path("/EXIT_CODES")
ENDPOINT = "127.0.0.1:PORT"
RENDEZVOUS = Rendezvous("FIRST:PORT", "ADDRESS", first=True)


def describe(options: Options, allocation: Allocation) -> str:
    """The tree of processes, indented; names in capitals are known only when it runs.

    Raises:
        RlhfError: the options don't fit together.
    """
    lines = [f"state {options.state}, owned by this launch"] if options.state else []
    if not allocation.needs_steps and options.nodes == 1:
        return "\n".join([*lines, *_agent(options, allocation)])
    rendezvous = RENDEZVOUS if options.nodes > 1 else None
    agent = agent_arguments(options, EXIT_CODES, rendezvous.endpoint if rendezvous else None)
    lines.append(shlex.join(srun_command(options, allocation.cpus, agent)))
    others = f", and likewise on {options.nodes - 1} more" if options.nodes > 1 else ""
    lines.append(f"on the first node{others}:")
    return "\n".join([*lines, *_indent(_agent(options, allocation, rendezvous))])


def _agent(
    options: Options, allocation: Allocation, rendezvous: Rendezvous | None = None
) -> list[str]:
    topology = plan(options, allocation.gpus(options.gpus))
    here, served_here, sampled_here = environments(options, SCRATCH)
    lines = []
    for kind in options.servers:
        gpus = topology.server_gpus[kind]
        if kind == SAMPLER:
            where = sampled_here
            command = [*python_command(where, "rlhf.serving.vllmserver"), "…"]
        else:
            where = served_here
            store = str(options.stores[kind])
            command = [*python_command(where, "rlhf.serving.tritonserver"), store, "…"]
        lines.append(f"server {kind}, on {_gpus(gpus)}, log {options.server_log(kind, 0)}:")
        lines += _process(command, where, common_variables(gpus, SCRATCH))
    endpoints = dict.fromkeys(options.servers, ENDPOINT)
    command = rank_command(options, topology, here, SCRATCH, rendezvous)
    ranks = f"{topology.ranks} ranks" if topology.ranks > 1 else "1 rank"
    lines.append(f"{ranks} of {topology.world}, on {_gpus(topology.rank_gpus)}:")
    return lines + _process(command, here, rank_variables(options, topology, SCRATCH, endpoints))


def _process(command: list[str], where: Environment, variables: Mapping[str, str]) -> list[str]:
    seen = [f"{name}={value}" for name, value in {**variables, **where.added}.items()]
    return _indent([*seen, _line(command)])


def _line(command: list[str]) -> str:
    return " ".join(word if word == "…" else shlex.quote(word) for word in command)


def _gpus(gpus: tuple[str, ...]) -> str:
    return f"GPU {', '.join(gpus)}" if gpus else "the CPU"


def _indent(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]
