"""One node: its model servers and its ranks, from start to end."""

from __future__ import annotations

import os
import signal

from rlhf.errors import RlhfError
from rlhf.launch.allocation import Allocation
from rlhf.launch.child import Child
from rlhf.launch.containers import environments
from rlhf.launch.options import Options
from rlhf.launch.ranks import Rendezvous, rank_command, rank_variables
from rlhf.launch.say import say
from rlhf.launch.scratch import Scratch
from rlhf.launch.servers import Servers
from rlhf.launch.topology import plan
from rlhf.launch.worker import exit_code, killed_ranks
from rlhf.runtime.killed import Memory, ended_by, signal_name
from rlhf.runtime.network import address_towards
from rlhf.runtime.processes import adopt_orphans, descendants, send

TO_DO = (
    "run it again: training goes on from the last saved state; if it was memory, raise "
    "cluster.stages.<stage>.memory_gb, or lower runtime.micro_batch_tokens"
)


class Agent:
    """Runs one node's part of a stage.

    Args:
        options: the launcher's command line.
        allocation: where this process runs.
        node: which node this is, from 0.
    """

    def __init__(self, options: Options, allocation: Allocation, node: int) -> None:
        self._options, self._allocation, self._node = options, allocation, node
        self._scratch = Scratch()
        self._servers = Servers(options, node, self._scratch.path)
        self._child = Child()

    def run(self) -> int:
        """Run all of it; the exit code of this node's part of the stage.

        Raises:
            RlhfError: this node does not have what the options say.
            ServingError: a server could not be brought up, or back.
        """
        adopt_orphans()
        self._child.catch_signals()
        options, scratch = self._options, self._scratch.path
        topology = plan(options, self._allocation.gpus(options.gpus))
        here, *elsewhere = environments(options, scratch)
        for one in (here, *elsewhere):
            one.check()
        for name in ("exit", "home"):
            (scratch / name).mkdir()
        self._servers.start(topology, *elsewhere)
        command = rank_command(options, topology, here, scratch, self._rendezvous())
        variables = rank_variables(options, topology, scratch, self._servers.endpoints())
        self._child.start(command, here.environment(variables))
        memory = Memory()
        status = self._child.wait(self._servers.mend)
        self._say_who_was_killed(status, topology.world, memory)
        return exit_code(scratch / "exit", status)

    def end_all(self) -> None:
        """End what still runs: the ranks (with time to save), the servers, then any remainder."""
        self._child.end()
        self._servers.stop()
        for pid in descendants(os.getpid()):
            send(pid, signal.SIGKILL)
        self._scratch.remove()

    def _say_who_was_killed(self, status: int, ranks: int, memory: Memory) -> None:
        """Say which ranks a signal ended.

        Args:
            status: exit code of the process that was waited for.
            ranks: ranks on all nodes: a single one is that process, several are below it.
            memory: looked at since before they started.
        """
        found = killed_ranks(self._scratch.path / "exit")
        killed = {f"rank {rank}": number for rank, number in found.items()}
        if not killed and (number := ended_by(status)):
            killed = {"rank 0" if ranks == 1 else "torchrun": number}
        for who, number in killed.items():
            why = memory.explain(number)
            to_do = f"\n  to do:    {TO_DO}" if why else ""
            say(f"{who} on {os.uname().nodename} was ended by {signal_name(number)}{why}{to_do}")

    def _rendezvous(self) -> Rendezvous | None:
        endpoint = self._options.rendezvous
        if endpoint is None:
            return None
        address = address_towards(endpoint.rpartition(":")[0])
        if address is None:
            raise RlhfError(
                "The first node can't be reached from this one.",
                where=f"{endpoint}, from {os.uname().nodename}",
                hint="ask the site which interface its nodes reach each other by",
            )
        return Rendezvous(endpoint, address, first=self._node == 0)
