"""One Triton server for one store: started, proven ready, watched, ended. No torch in here.

It serves gRPC on the loopback interface, and only to clients with this job's certificates. The
process starts as ``rlhf.serving.tritonserver``, here or inside an image, which finds the server's
binary where it runs; the Python backend runs models in the environment of that interpreter.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rlhf.errors import ServingError
from rlhf.runtime.killed import ended_by, signal_name
from rlhf.runtime.processes import command_line, descendants, start_time, tied
from rlhf.runtime.tls import LOOPBACK, Certificates
from rlhf.serving.store import store_kind

if TYPE_CHECKING:
    from rlhf.serving.health import Health

TAIL_LINES = 15
EXIT_SECONDS = 8  # Triton's own; a model whose Python process was killed never unloads
STOP_SECONDS = 15.0  # after this it is killed
MODEL_LOST = "lost the process that holds its model"
MODEL_LOST_SECONDS = 15.0  # one that fails to load ends first, and the server soon after it
START_ATTEMPTS = 3  # with new ports each time

_SHM = Path("/dev/shm")


class Killed(ServingError):
    """A server was killed, or the process that holds its model was: it may come up another time."""


class TritonServer:
    """A ``tritonserver`` process that serves one store to this job's clients on this node.

    As a context manager it starts, waits until it is ready, and stops. ``start`` must be called
    in the main thread: the server ends with the thread that started it, so that it can't outlive
    a launcher that was killed.

    Args:
        store: folder that ``export_store`` made.
        log_path: file that the server's output is added to.
        threads: CPU threads that the model computes with.
        certificates: those of this job; an image has to see their folder.
        command_prefix: what makes a command run elsewhere, such as ``apptainer exec … IMAGE``.
        python: interpreter with torch and transformers, as the prefixed command sees it.
        env: the environment to start in, instead of this process's own; it chooses the GPUs.
        scratch: folder for temporary files, which an image has to see.
        spread: load the model once, over several GPUs if it is too large for the first; without
            it every GPU has a model of its own.
    """

    def __init__(
        self,
        store: str | Path,
        log_path: str | Path,
        *,
        certificates: Certificates,
        threads: int = 1,
        command_prefix: Sequence[str] = (),
        python: str = sys.executable,
        env: Mapping[str, str] | None = None,
        scratch: Path | None = None,
        spread: bool = False,
    ) -> None:
        self.store, self.log_path = Path(store).resolve(), Path(log_path)
        self.kind = store_kind(store)
        self.certificates, self._threads = certificates, threads
        self._command = [*command_prefix, python, "-m", "rlhf.serving.tritonserver"]
        self._env, self._scratch_root, self._spread = env, scratch, spread
        self._port = free_port()
        self._name = f"rlhf-{self.kind}-{secrets.token_hex(8)}"
        self._process: subprocess.Popen[bytes] | None = None
        self._health: Health | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._was_ready = False

    @property
    def endpoint(self) -> str:
        """``host:port`` for gRPC clients; the same before and after a restart."""
        return f"{LOOPBACK}:{self._port}"

    @property
    def pid(self) -> int | None:
        """Process id of the running server, or None."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def __enter__(self) -> TritonServer:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process; it is not ready yet.

        Raises:
            ServingError: the certificates can't be used.
        """
        # Not at the top: gRPC is slow to import, and most jobs of a launcher have no server.
        from rlhf.serving.health import Health

        self.stop()
        self._health = Health(self.endpoint, self.kind, self._name, self.certificates)
        self._scratch = tempfile.TemporaryDirectory(prefix=f"{self._name}.", dir=self._scratch_root)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log_path, "ab") as log:
            self._process = subprocess.Popen(
                tied([*self._command, *self._arguments(self._scratch.name)]),
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the launcher, which ends servers last
            )
        self._health.start()

    def restart(self) -> None:
        """Kill what is left of the process and start it again on the same port."""
        self._kill()
        self.start()

    def wait_ready(self, timeout: float = 600.0) -> None:
        """Wait until this very process answers an inference.

        Args:
            timeout: seconds; loading a large model from a network disk takes minutes.

        Raises:
            Killed: a signal ended it, or the process that holds its model.
            ServingError: it ended by itself or was not ready in time; with the end of its log.
        """
        until = time.monotonic() + timeout
        attempt, model = 1, _ModelProcess()
        while not (self._health and self._health.ready.wait(0.1)):
            if self.pid is not None and model.is_lost(self.pid):
                raise self.failure(f"{MODEL_LOST} before it was ready", Killed)
            if self.poll() is not None:
                # Triton takes its port after loading, when another process may have it. Once
                # clients know the port, a new one would help nobody.
                if self._was_ready or attempt == START_ATTEMPTS or not self._port_was_taken():
                    kind = Killed if self.killed_by() else ServingError
                    raise self.failure(f"{self._how_it_ended()} before it was ready", kind)
                attempt += 1
                self._port = free_port()
                self.start()
            if time.monotonic() > until:
                raise self.failure(f"was not ready after {timeout:.0f} s")
        self._was_ready = True

    def poll(self) -> int | None:
        """Exit code of the process (negative: the signal that ended it), None while it runs."""
        return None if self._process is None else self._process.poll()

    def trouble(self) -> str | None:
        """What is wrong with the server, in words; None while it starts, works or is busy."""
        if self.poll() is not None:
            return self._how_it_ended()
        return self._health.trouble if self._health else None

    def killed_by(self) -> int | None:
        """The signal that ended the process; None while it runs, or when it ended by itself."""
        code = self.poll()
        return None if code is None else ended_by(code)

    def _how_it_ended(self) -> str:
        number = self.killed_by()
        which = f" ({signal_name(number)})" if number else ""
        return f"ended with exit code {self.poll()}{which}"

    def healthy(self, timeout: float = 60.0) -> bool:
        """Whether the process lives, the port is its own, and the model really answers.

        Triton calls itself ready while its Python process is dead, and a taken port is answered
        by the other server: neither may pass.

        Args:
            timeout: seconds; a frozen server takes all of them.
        """
        if self.pid is None or self._health is None:
            return False
        return self._health.answers(timeout) and self.pid is not None

    def terminate(self) -> None:
        """Ask the process to end, and don't wait; several servers then end at the same time."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """End the process: SIGTERM, then SIGKILL after a while; free what it left behind."""
        self.terminate()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        self._kill()

    def _kill(self) -> None:
        if self._health is not None:
            self._health.end()
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the Python process of a killed server too
            process.wait()
            for segment in _SHM.glob(f"{self._name}*"):
                segment.unlink(missing_ok=True)
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def failure(self, what: str, kind: type[ServingError] = ServingError) -> ServingError:
        """The error to raise about this server, with the end of its log."""
        return kind(
            f"The {self.kind} server {what}. The end of its log:\n{self.log_tail()}",
            where=self.log_path,
            expected="a running tritonserver that answers an inference",
            hint="read the log from its end; the store is " + str(self.store),
        )

    def log_tail(self) -> str:
        """The last lines of the server's log."""
        try:
            lines = self.log_path.read_text(errors="replace").splitlines()
        except OSError:
            return "(no log)"
        return "\n".join("    " + line for line in lines[-TAIL_LINES:])

    def _arguments(self, scratch: str) -> list[str]:
        """Those of ``rlhf.serving.tritonserver``, then those that are Triton's."""
        tls = self.certificates
        return [
            str(self.store),
            self.kind,
            scratch,
            str(self._threads),
            "spread" if self._spread else "each",
            "--model-control-mode=explicit",
            f"--load-model={self.kind}",
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

    def _port_was_taken(self) -> bool:
        """Asked of the port, not of the log: on a taken port Triton may just abort."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past connections
            try:
                probe.bind((LOOPBACK, self._port))
            except OSError:
                return True
        return False


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
            if any(map(_holds_model, descendants(server))):
                self._there, self._seen = True, now
        return self._there and now - self._seen > MODEL_LOST_SECONDS


def _holds_model(pid: int) -> bool:
    name = (command_line(pid) or [""])[0]
    return name.endswith("triton_python_backend_stub") and start_time(pid) is not None


def free_port() -> int:
    """A loopback port that nobody listens on right now (Triton refuses port 0)."""
    with socket.socket() as one:
        one.bind((LOOPBACK, 0))
        return one.getsockname()[1]
