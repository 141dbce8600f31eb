"""A model server's process: started, proven ready, watched, ended. No torch in here.

What one kind of server does differently is in its class: its command line, how it is asked whether
it is well, and what it leaves behind.
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
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from rlhf.errors import ServingError
from rlhf.runtime.killed import ended_by, signal_name
from rlhf.runtime.processes import tied
from rlhf.runtime.tls import LOOPBACK, Certificates

TAIL_LINES = 15
STOP_SECONDS = 15.0  # after this it is killed
MODEL_LOST = "lost the process that holds its model"
START_ATTEMPTS = 3  # with new ports each time


class Killed(ServingError):
    """A server was killed, or the process that holds its model was: it may come up another time."""


class Watch(Protocol):
    """A thread that asks one server again and again, from its start to its end.

    Attributes:
        ready: set once the server has answered for the first time.
        trouble: what is wrong with it since, in words; None while it is well.
    """

    ready: threading.Event
    trouble: str | None

    def start(self) -> None:
        """Begin to ask."""

    def answers(self, seconds: float) -> bool:
        """Whether this very server answers a request, within ``seconds``."""

    def end(self) -> None:
        """Ask no more."""


class ServerProcess(ABC):
    """A process that serves one model to this job's clients on this node.

    As a context manager it starts, waits until it is ready, and stops. ``start`` must be called
    in the main thread: the server ends with the thread that started it, so that it can't outlive
    a launcher that was killed.

    Args:
        kind: what it is called: ``reward``, ``reference`` or ``sampler``.
        model: the folder that it serves.
        module: becomes the server, as ``python -m``.
        log_path: file that the server's output is added to.
        certificates: those of this job; an image has to see their folder.
        threads: CPU threads that the model computes with.
        command_prefix: what makes a command run elsewhere, such as ``apptainer exec … IMAGE``.
        python: interpreter that runs the module, as the prefixed command sees it.
        env: the environment to start in, instead of this process's own; it chooses the GPUs.
        scratch: folder for temporary files, which an image has to see.
    """

    program: str  # what errors call it

    def __init__(
        self,
        kind: str,
        model: str | Path,
        module: str,
        log_path: str | Path,
        *,
        certificates: Certificates,
        threads: int = 1,
        command_prefix: Sequence[str] = (),
        python: str = sys.executable,
        env: Mapping[str, str] | None = None,
        scratch: Path | None = None,
    ) -> None:
        self.kind, self.model, self.log_path = kind, Path(model).resolve(), Path(log_path)
        self.certificates, self._threads = certificates, threads
        self._command = [*command_prefix, python, "-m", module]
        self._env, self._scratch_root = env, scratch
        self._port = free_port()
        self._name = f"rlhf-{self.kind}-{secrets.token_hex(8)}"
        self._process: subprocess.Popen[bytes] | None = None
        self._health: Watch | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._was_ready = False

    @abstractmethod
    def _arguments(self, scratch: str) -> list[str]:
        """Those of the module, for a server whose temporary files are in ``scratch``."""

    @abstractmethod
    def _watch(self) -> Watch:
        """What asks the server; not started.

        Raises:
            ServingError: the certificates can't be used.
        """

    @abstractmethod
    def _clean(self) -> None:
        """Free what killed processes leave behind."""

    def _lost_model(self) -> bool:
        """Whether the process that holds the model is gone while the server waits for it."""
        return False

    @property
    def endpoint(self) -> str:
        """``host:port`` for clients; the same before and after a restart."""
        return f"{LOOPBACK}:{self._port}"

    @property
    def pid(self) -> int | None:
        """Process id of the running server, or None."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def __enter__(self) -> Self:
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
        self.stop()
        self._health = self._watch()
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
        """Wait until this very process answers a request.

        Args:
            timeout: seconds; loading a large model from a network disk takes minutes.

        Raises:
            Killed: a signal ended it, or the process that holds its model.
            ServingError: it ended by itself or was not ready in time; with the end of its log.
        """
        until = time.monotonic() + timeout
        attempt = 1
        while not (self._health and self._health.ready.wait(0.1)):
            if self.pid is not None and self._lost_model():
                raise self.failure(f"{MODEL_LOST} before it was ready", Killed)
            if self.poll() is not None:
                # The port is taken after loading, when another process may have it. Once clients
                # know the port, a new one would help nobody.
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

        A server may call itself ready while the process that holds its model is dead, and a taken
        port is answered by the other server: neither may pass.

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
                os.killpg(process.pid, signal.SIGKILL)  # other processes of a killed server too
            process.wait()
            self._clean()
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def failure(self, what: str, kind: type[ServingError] = ServingError) -> ServingError:
        """The error to raise about this server, with the end of its log."""
        return kind(
            f"The {self.kind} server {what}. The end of its log:\n{self.log_tail()}",
            where=self.log_path,
            expected=f"a running {self.program} that answers a request",
            hint=f"read the log from its end; it serves {self.model}",
        )

    def log_tail(self) -> str:
        """The last lines of the server's log."""
        try:
            lines = self.log_path.read_text(errors="replace").splitlines()
        except OSError:
            return "(no log)"
        return "\n".join("    " + line for line in lines[-TAIL_LINES:])

    def _port_was_taken(self) -> bool:
        """Asked of the port, not of the log: on a taken port Triton may just abort."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past connections
            try:
                probe.bind((LOOPBACK, self._port))
            except OSError:
                return True
        return False


def free_port() -> int:
    """A loopback port that nobody listens on right now (Triton refuses port 0)."""
    with socket.socket() as one:
        one.bind((LOOPBACK, 0))
        return one.getsockname()[1]
