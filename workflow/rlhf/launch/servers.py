"""The model servers of one node: started, awaited, restarted within bounds, ended."""

from __future__ import annotations

from collections import Counter

from rlhf.errors import ServingError
from rlhf.launch.options import Options
from rlhf.launch.say import say
from rlhf.serving.server import TritonServer

RESTARTS = 2  # for each server
READY_SECONDS = 1800.0


class Servers:
    """All model servers of one node.

    Args:
        options: the launcher's command line.
        node: which node this is.
    """

    def __init__(self, options: Options, node: int) -> None:
        self._options, self._node = options, node
        self._servers: list[TritonServer] = []
        self._restarts: Counter[str] = Counter()

    def start(self) -> None:
        """Start all of them at once, and wait until each one answers an inference.

        Raises:
            ServingError: a store holds another kind of model, or a server did not come up.
        """
        for kind, store in self._options.stores.items():
            server = TritonServer(
                store,
                self._options.server_log(kind, self._node),
                threads=self._options.server_threads,
            )
            if server.kind != kind:
                raise ServingError(
                    f"This store holds a {server.kind} model.",
                    where=store,
                    expected=f"--serve {server.kind}=…, or a store of kind {kind}",
                )
            self._servers.append(server)
            server.start()
        for server in self._servers:
            server.wait_ready(READY_SECONDS)
            say(f"the {server.kind} server is ready at {server.endpoint}")

    def endpoints(self) -> dict[str, str]:
        """Kind → HOST:PORT, the same after a restart."""
        return {server.kind: server.endpoint for server in self._servers}

    def mend(self) -> None:
        """Restart those that have ended.

        Raises:
            ServingError: one has ended too often.
        """
        for server in self._servers:
            if server.poll() is None:
                continue
            ended = f"ended with exit code {server.poll()}"
            if self._restarts[server.kind] == RESTARTS:
                raise server.failure(f"{ended} after {RESTARTS} restarts")
            self._restarts[server.kind] += 1
            say(f"the {server.kind} server {ended}; restarting it at {server.endpoint}")
            server.restart()

    def stop(self) -> None:
        """End all of them, at the same time."""
        for server in self._servers:
            server.terminate()
        for server in self._servers:
            server.stop()
