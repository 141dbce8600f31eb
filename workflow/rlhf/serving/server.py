"""One Triton server for one store: started, proven ready, watched, ended. No torch in here.

It serves gRPC on the loopback interface, and only to clients with this job's certificates. The
process starts as ``rlhf.serving.tritonserver``, here or inside an image, which finds the server's
binary where it runs; the Python backend runs models in the environment of that interpreter.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.runtime.processes import descendants, start_time
from rlhf.runtime.tls import LOOPBACK
from rlhf.serving.process import ServerProcess
from rlhf.serving.store import store_kind

if TYPE_CHECKING:
    from rlhf.serving.health import Health

EXIT_SECONDS = 8  # Triton's own; a model whose Python process was killed never unloads
MODEL_LOST_SECONDS = 15.0  # one that fails to load ends first, and the server soon after it

_SHM = Path("/dev/shm")
_STUB = "triton_python_b"  # the name of its process, as the kernel cuts it


class TritonServer(ServerProcess):
    """A ``tritonserver`` process that serves one store.

    Args:
        store: folder that ``export_store`` made.
        log_path: file that the server's output is added to.
        name: what it is called; by default like the kind of its model.
        spread: load the model once, over several GPUs if it is too large for the first; without
            it every GPU has a model of its own.
        options: see ``ServerProcess``; ``python`` is an interpreter with torch and transformers.
    """

    program = "tritonserver"

    def __init__(
        self,
        store: str | Path,
        log_path: str | Path,
        *,
        name: str = "",
        spread: bool = False,
        **options: Any,
    ) -> None:
        self.store_kind, self._spread = store_kind(store), spread
        module = "rlhf.serving.tritonserver"
        super().__init__(name or self.store_kind, store, module, log_path, **options)
        self._model_process = _ModelProcess()

    def _watch(self) -> Health:
        # Not at the top: gRPC is slow to import, and most jobs of a launcher have no server.
        from rlhf.serving.health import Health

        self._model_process = _ModelProcess()
        return Health(self.endpoint, self.store_kind, self._name, self.certificates)

    def _lost_model(self) -> bool:
        return self.pid is not None and self._model_process.is_lost(self.pid)

    def _clean(self) -> None:
        for segment in _SHM.glob(f"{self._name}*"):
            segment.unlink(missing_ok=True)

    def _arguments(self, scratch: str) -> list[str]:
        """Those of ``rlhf.serving.tritonserver``, then those that are Triton's."""
        tls = self.certificates
        return [
            str(self.model),
            self.store_kind,
            scratch,
            str(self._threads),
            "spread" if self._spread else "each",
            "--model-control-mode=explicit",
            f"--load-model={self.store_kind}",
            f"--id={self._name}",
            "--allow-http=false",
            "--allow-metrics=false",
            f"--grpc-address={LOOPBACK}",
            f"--grpc-port={self._port}",
            "--grpc-use-ssl=true",
            "--grpc-use-ssl-mutual=true",  # without it Triton lets everybody in
            f"--grpc-server-cert={tls.server_cert}",
            f"--grpc-server-key={tls.server_key}",
            f"--grpc-root-cert={tls.ca}",
            f"--exit-timeout-secs={EXIT_SECONDS}",
            # each server its own segments, so that a killed one's can be told from the others'
            f"--backend-config=python,shm-region-prefix-name={self._name}",
        ]


class _ModelProcess:
    """The Python process in which a server loads its model.

    Triton does not notice that it is killed meanwhile, and waits for it forever.
    """

    def __init__(self) -> None:
        self._looked = self._seen = time.monotonic()
        self._there = False

    def is_lost(self, server: int) -> bool:
        """Whether there was one below a server, and has been none for a while."""
        now = time.monotonic()
        if now - self._looked >= 1.0:
            self._looked = now
            stubs = [pid for pid in descendants(server) if _is_stub(pid)]
            alive = any(start_time(pid) is not None for pid in stubs)
            if alive or (stubs and not self._there):
                self._there, self._seen = True, now
        return self._there and now - self._seen > MODEL_LOST_SECONDS


def _is_stub(pid: int) -> bool:
    """Whether it holds a model, or did before it ended: Triton leaves what is left of it."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == _STUB
    except OSError:
        return False
