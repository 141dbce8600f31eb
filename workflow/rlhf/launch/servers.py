"""The model servers of one node: started, awaited, restarted within bounds, ended."""

from __future__ import annotations

import contextlib
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf.errors import ServingError
from rlhf.launch.containers import Environment
from rlhf.launch.options import SAMPLER, Options, kind_of
from rlhf.launch.ranks import common_variables
from rlhf.launch.say import say
from rlhf.launch.topology import Topology
from rlhf.runtime.killed import Memory
from rlhf.runtime.tls import Certificates, make_certificates
from rlhf.serving.process import MODEL_LOST, Killed, ServerProcess
from rlhf.serving.server import TritonServer
from rlhf.serving.vllm_server import VllmServer

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
        self._servers: list[ServerProcess] = []
        self._restarts: Counter[str] = Counter()
        self._memory = Memory()

    def start(self, topology: Topology, where: Environment, sampling: Environment) -> None:
        """Start all of them at once, and wait until each one answers a request.

        Args:
            topology: which GPUs they have.
            where: where those that score run.
            sampling: where the sampler runs.

        Raises:
            ServingError: a store holds another kind of model, or a server did not come up: one
                that ends by itself before it is ready would do so again, one that is killed is
                restarted.
        """
        if not self._options.servers:
            return
        certificates = make_certificates(self._scratch / "tls")
        for name in self._options.servers:
            gpus = topology.server_gpus[name]
            server: ServerProcess
            if name == SAMPLER:
                server = self._sampler(gpus, self._common(name, gpus, sampling, certificates))
            else:
                server = self._scorer(name, self._common(name, gpus, where, certificates))
            self._servers.append(server)
            with _undisturbed():
                server.start()
        for server in self._servers:
            self._await(server)
            say(f"the {server.kind} server is ready at {server.endpoint}")

    def _common(
        self, name: str, gpus: tuple[str, ...], where: Environment, certificates: Certificates
    ) -> dict[str, Any]:
        """What servers of all kinds are started with."""
        return {
            "log_path": self._options.server_log(name, self._node),
            "certificates": certificates,
            "threads": self._options.server_threads,
            "command_prefix": where.prefix(),
            "python": where.python,
            "env": where.environment(common_variables(gpus, self._scratch)),
            "scratch": self._scratch,
        }

    def _scorer(self, name: str, common: dict[str, Any]) -> TritonServer:
        store, kind = self._options.stores[name], kind_of(name)
        server = TritonServer(store, name=name, spread=name in self._options.spread, **common)
        if server.store_kind != kind:
            raise ServingError(
                f"This store holds a {server.store_kind} model.",
                where=store,
                expected=f"--serve {server.store_kind}=…, or a store of kind {kind}",
            )
        return server

    def _sampler(self, gpus: tuple[str, ...], common: dict[str, Any]) -> VllmServer:
        options = self._options
        assert options.sampler is not None
        shared = not options.server_gpus
        return VllmServer(
            options.sampler,
            dtype=options.sampler_dtype,
            longest=options.sampler_length,
            gpus=min(len(gpus), 1) if shared else len(gpus),
            shared=shared,
            **common,
        )

    def endpoints(self) -> dict[str, str]:
        """What a server is called → HOST:PORT, the same after a restart."""
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

    def _await(self, server: ServerProcess) -> None:
        """Wait until a server is ready, over its restarts."""
        while True:
            try:
                server.wait_ready(READY_SECONDS)
                return
            except Killed as killed:
                trouble = f"{server.trouble() or MODEL_LOST} before it was ready"
                self._restart(server, trouble, killed)

    def _restart(
        self, server: ServerProcess, trouble: str, cause: ServingError | None = None
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
