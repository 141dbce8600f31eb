"""The model servers of one node: started, awaited, restarted within bounds, ended."""

from __future__ import annotations

import contextlib
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rlhf.errors import ServingError
from rlhf.launch.containers import Environment
from rlhf.launch.options import Options
from rlhf.launch.ranks import common_variables
from rlhf.launch.say import say
from rlhf.launch.topology import Topology
from rlhf.runtime.killed import Memory
from rlhf.runtime.tls import make_certificates
from rlhf.serving.server import MODEL_LOST, Killed, TritonServer

RESTARTS = 2  # for each server
READY_SECONDS = 1800.0


class Servers:
    """All model servers of one node.

    Args:
        options: the launcher's command line.
        node: which node this is.
        scratch: the launcher's scratch folder.
    """

    def __init__(self, options: Options, node: int, scratch: Path) -> None:
        self._options, self._node, self._scratch = options, node, scratch
        self._servers: list[TritonServer] = []
        self._restarts: Counter[str] = Counter()
        self._memory = Memory()

    def start(self, topology: Topology, where: Environment) -> None:
        """Start all of them at once, and wait until each one answers an inference.

        Args:
            topology: which GPUs they have.
            where: where they run.

        Raises:
            ServingError: a store holds another kind of model, or a server did not come up: one
                that ends by itself before it is ready would do so again, one that is killed is
                restarted.
        """
        if not self._options.stores:
            return
        certificates = make_certificates(self._scratch / "tls")
        for kind, store in self._options.stores.items():
            variables = common_variables(topology.server_gpus[kind], self._scratch)
            server = TritonServer(
                store,
                self._options.server_log(kind, self._node),
                certificates=certificates,
                threads=self._options.server_threads,
                command_prefix=where.prefix(),
                python=where.python,
                env=where.environment(variables),
                scratch=self._scratch,
                spread=kind in self._options.spread,
            )
            if server.kind != kind:
                raise ServingError(
                    f"This store holds a {server.kind} model.",
                    where=store,
                    expected=f"--serve {server.kind}=…, or a store of kind {kind}",
                )
            self._servers.append(server)
            with _undisturbed():
                server.start()
        for server in self._servers:
            self._await(server)
            say(f"the {server.kind} server is ready at {server.endpoint}")

    def endpoints(self) -> dict[str, str]:
        """Kind → HOST:PORT, the same after a restart."""
        return {server.kind: server.endpoint for server in self._servers}

    def mend(self) -> None:
        """Restart those that have ended, or answer no more.

        Raises:
            ServingError: one has done so too often.
        """
        for server in self._servers:
            trouble = server.trouble()
            if trouble is not None:
                self._restart(server, trouble)

    def _await(self, server: TritonServer) -> None:
        """Wait until a server is ready, over its restarts."""
        while True:
            try:
                server.wait_ready(READY_SECONDS)
                return
            except Killed as killed:
                trouble = f"{server.trouble() or MODEL_LOST} before it was ready"
                self._restart(server, trouble, killed)

    def _restart(
        self, server: TritonServer, trouble: str, cause: ServingError | None = None
    ) -> None:
        number = server.killed_by()
        why = self._memory.explain(number) if number else ""
        if self._restarts[server.kind] == RESTARTS:
            raise server.failure(f"{trouble} after {RESTARTS} restarts{why}") from cause
        self._restarts[server.kind] += 1
        say(f"the {server.kind} server {trouble}; restarting it at {server.endpoint}{why}")
        with _undisturbed():
            server.restart()

    def stop(self) -> None:
        """End all of them, at the same time."""
        for server in self._servers:
            server.terminate()
        for server in self._servers:
            server.stop()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """What is started within is deaf to the signals by which SLURM asks a whole step to save."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1, signal.SIGUSR2))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
