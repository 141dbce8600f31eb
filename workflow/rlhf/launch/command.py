"""From the command line to the exit code."""

from __future__ import annotations

import contextlib
import os
import sys

from rlhf.errors import EXIT_BAD_INPUT, EXIT_SAVED, RlhfError, ServingError
from rlhf.launch.agent import Agent
from rlhf.launch.allocation import find_allocation, this_node
from rlhf.launch.child import Stopped
from rlhf.launch.coordinator import Coordinator
from rlhf.launch.dry_run import describe
from rlhf.launch.options import Options, parse
from rlhf.launch.say import say
from rlhf.launch.worker import leave_code
from rlhf.runtime.deadline import DEADLINE
from rlhf.runtime.ownership import claim, new_attempt


def run(argv: list[str] | None = None) -> int:
    """Run ``rlhf launch`` and return its exit code.

    To be called in the main thread of a process of its own: at the end, everything that descends
    from this process is ended.
    """
    options = parse(sys.argv[1:] if argv is None else argv)
    try:
        code = _launch(options)
    except RlhfError as error:
        say(str(error))
        code = 1 if isinstance(error, ServingError) else EXIT_BAD_INPUT
    except Stopped as stopped:
        code = 128 + stopped.args[0]
    if options.exit_codes is None:
        return code
    with contextlib.suppress(FileNotFoundError):  # another launch has cleared up after this one
        leave_code(options.exit_codes, str(this_node()), code)
    # srun ends all agents on the first exit code but 0; the coordinator learns of a saved state
    return 0 if code == EXIT_SAVED else code


def _launch(options: Options) -> int:
    allocation = find_allocation()
    if options.dry_run:
        print(describe(options, allocation))
        return 0
    if options.nodes > 1 and not options.agent and not allocation.needs_steps:
        raise RlhfError(
            f"{options.nodes} nodes can only be had in a SLURM job.",
            where="in a step of one" if allocation.in_step else "outside of a job",
            expected="a batch script of a job of that many nodes",
            hint="submit with `snakemake --profile slurm`, or set cluster.nodes to 1",
        )
    os.environ[DEADLINE] = "" if allocation.ends is None else str(allocation.ends)
    if options.agent:
        return _carry_out(Agent(options, allocation, this_node()))
    with contextlib.ExitStack() as held:
        if options.state is not None:
            ownership = held.enter_context(claim(options.state, new_attempt()))
            os.environ.update(ownership.variables())
        if allocation.needs_steps:
            return _carry_out(Coordinator(options, allocation))
        return _carry_out(Agent(options, allocation, node=0))


def _carry_out(launcher: Agent | Coordinator) -> int:
    try:
        return launcher.run()
    finally:
        launcher.end_all()
