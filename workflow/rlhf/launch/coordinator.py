"""The coordinator of a SLURM job: one agent on each node, through srun."""

from __future__ import annotations

import shutil
import signal
import socket
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from rlhf.errors import RlhfError
from rlhf.launch.allocation import Allocation, step_environment
from rlhf.launch.child import Child
from rlhf.launch.options import Options, agent_arguments
from rlhf.launch.worker import exit_code
from rlhf.runtime.network import address_towards, hold_port


def srun_command(options: Options, cpus: int, agent: list[str]) -> list[str]:
    """The command line that starts one agent on each node.

    Args:
        options: the launcher's command line.
        cpus: CPUs on each node; 0: whatever SLURM gives.
        agent: arguments of an agent.
    """
    return [
        "srun",
        f"--nodes={options.nodes}",
        f"--ntasks={options.nodes}",
        "--ntasks-per-node=1",
        *([f"--cpus-per-task={cpus}"] if cpus else []),
        *([f"--gres=gpu:{options.gpus}"] if options.gpus else []),
        "--kill-on-bad-exit=1",
        "--wait=0",  # an agent that is done must not take along one that still writes
        "--overlap",  # with other steps: whoever runs several stages in one job means it
        "--mpi=none",
        "--unbuffered",
        sys.executable, "-m", "rlhf.launch", *agent,
    ]  # fmt: skip


class Coordinator:
    """Starts the agents of a job and comes to one exit code.

    Args:
        options: the launcher's command line.
        allocation: the job.
    """

    def __init__(self, options: Options, allocation: Allocation) -> None:
        self._options, self._allocation = options, allocation
        self._interrupts = 0
        self._child = Child(self._for_srun, farewell=signal.SIGUSR2)
        # Beside the log, for all nodes have to see it.
        folder, name = options.log.parent, f".{options.log.stem}.agents-"
        folder.mkdir(parents=True, exist_ok=True)
        if options.state is not None:  # it is ours alone, so these are of heads that were killed
            for left in folder.glob(f"{name}*"):
                shutil.rmtree(left, ignore_errors=True)
        self._verdicts = Path(tempfile.mkdtemp(prefix=name, dir=folder)).resolve()

    def run(self) -> int:
        """Run all agents; the exit code of the stage.

        Raises:
            RlhfError: the job has too few nodes.
        """
        self._child.catch_signals()
        options, allocation = self._options, self._allocation
        if len(allocation.nodes) < options.nodes:
            raise RlhfError(
                f"{options.nodes} nodes were asked for, the job has {len(allocation.nodes)}.",
                where=f"SLURM job {allocation.job}: {', '.join(allocation.nodes)}",
                expected=f"a job of {options.nodes} nodes",
                hint="submit through the profile, which asks for as many as cluster.nodes says",
            )
        with ExitStack() as held:
            rendezvous = None
            if options.nodes > 1:
                port = held.enter_context(hold_port()).getsockname()[1]
                rendezvous = f"{rendezvous_address(allocation)}:{port}"
            agent = agent_arguments(options, self._verdicts, rendezvous)
            command = srun_command(options, allocation.cpus, agent)
            self._child.start(command, step_environment())
            return exit_code(self._verdicts, self._child.wait())

    def end_all(self) -> None:
        """End the agents if they still run."""
        self._child.end()
        shutil.rmtree(self._verdicts, ignore_errors=True)

    def _for_srun(self, number: int) -> int:
        """What to send to srun: it kills its tasks on SIGTERM, and passes SIGUSR2 on to them."""
        if number == signal.SIGINT:
            self._interrupts += 1
            return signal.SIGUSR2 if self._interrupts == 1 else signal.SIGTERM
        return signal.SIGUSR2 if number == signal.SIGTERM else number


def rendezvous_address(allocation: Allocation) -> str:
    """Where the first node is reached by the others.

    On the first node itself its name may mean the loopback; the way to another node does not.
    """
    if allocation.on_first_node:
        for node in allocation.nodes[1:]:
            address = address_towards(node)
            if address is not None:
                return address
    return socket.gethostbyname(allocation.nodes[0])
