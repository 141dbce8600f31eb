"""One Triton server for one store: started, proven ready, watched, ended. No torch in here.

The binary is the machine's or the image's own ``tritonserver``, or else the one that the wheel
``nvidia-pytriton`` carries; the Python backend runs models in the environment of ``env_python``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from rlhf.errors import ServingError
from rlhf.runtime.processes import die_with_parent
from rlhf.serving.store import store_kind

TAIL_LINES = 15
EXIT_SECONDS = 8  # Triton's own; a model whose Python process was killed never unloads
STOP_SECONDS = 15.0  # after this it is killed
PROBE_SECONDS = 60.0
START_ATTEMPTS = 3  # with new ports each time

_SHM = Path("/dev/shm")
# A proxy from the environment must never see requests to this machine.
_HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class TritonServer:
    """A ``tritonserver`` process that serves one store on the loopback interface.

    As a context manager it starts, waits until it is ready, and stops. ``start`` must be called
    in the main thread: the server ends with the thread that started it, so that it can't outlive
    a launcher that was killed.

    Args:
        store: folder that ``export_store`` made.
        log_path: file that the server's output is added to.
        threads: CPU threads that the model computes with.
        env_python: interpreter whose environment has torch and transformers for the model.
        host: address to listen on.
    """

    def __init__(
        self,
        store: str | Path,
        log_path: str | Path,
        *,
        threads: int = 1,
        env_python: str = sys.executable,
        host: str = "127.0.0.1",
    ) -> None:
        self.store, self.log_path = Path(store).resolve(), Path(log_path)
        self.kind = store_kind(store)
        self._threads, self._python, self._host = threads, env_python, host
        self._ports = free_ports(host)
        self._name = f"rlhf-{self.kind}-{secrets.token_hex(8)}"
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._was_ready = False

    @property
    def endpoint(self) -> str:
        """``host:port`` for gRPC clients; the same before and after a restart."""
        return f"{self._host}:{self._ports[1]}"

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
            ServingError: no tritonserver was found, or the interpreter does not run.
        """
        self.stop()
        self._scratch = tempfile.TemporaryDirectory(prefix="rlhf-server-")
        command, environment = self._prepare(Path(self._scratch.name)), self._environment()
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log_path, "ab") as log:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the launcher, which ends servers last
                preexec_fn=die_with_parent(),
            )

    def restart(self) -> None:
        """Stop what is left of the process and start it again on the same ports."""
        self.start()

    def wait_ready(self, timeout: float = 600.0) -> None:
        """Wait until this very process answers an inference.

        Args:
            timeout: seconds; loading a large model from a network disk takes minutes.

        Raises:
            ServingError: it ended or was not ready in time; with the end of its log.
        """
        until = time.monotonic() + timeout
        attempt = 1
        while not self.healthy():
            if self.poll() is not None:
                # Triton takes its ports after loading, when another process may have them. Once
                # clients know the ports, new ones would help nobody.
                if self._was_ready or attempt == START_ATTEMPTS or not self._port_was_taken():
                    raise self.failure(f"ended with exit code {self.poll()} before it was ready")
                attempt += 1
                self._ports = free_ports(self._host)
                self.start()
            if time.monotonic() > until:
                raise self.failure(f"was not ready after {timeout:.0f} s")
            time.sleep(0.1)
        self._was_ready = True

    def poll(self) -> int | None:
        """Exit code of the process (negative: the signal that ended it), None while it runs."""
        return None if self._process is None else self._process.poll()

    def healthy(self) -> bool:
        """Whether the process lives, the port is its own, and the model really answers.

        Triton calls itself ready while its Python process is dead, and a taken port is answered
        by the other server: neither may pass.
        """
        if self.pid is None:
            return False
        inputs: list[dict[str, Any]] = [
            {"name": "input_ids", "shape": [1, 2], "datatype": "INT64", "data": [0, 0]}
        ]
        if self.kind == "reference":
            inputs += [
                {"name": "start", "shape": [1, 1], "datatype": "INT64", "data": [1]},
                {"name": "temperature", "shape": [1, 1], "datatype": "FP32", "data": [1.0]},
            ]
        try:
            if json.loads(self._http("/v2"))["name"] != self._name:
                return False
            self._http(f"/v2/models/{self.kind}/infer", json.dumps({"inputs": inputs}).encode())
        except (OSError, ValueError, KeyError):  # URLError and HTTPError are OSErrors
            return False
        return self.pid is not None

    def terminate(self) -> None:
        """Ask the process to end, and don't wait; several servers then end at the same time."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """End the process: SIGTERM, then SIGKILL after a while; free what it left behind."""
        self.terminate()
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the Python process of a killed server too
            process.wait()
            for segment in _SHM.glob(f"{self._name}*"):
                segment.unlink(missing_ok=True)
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def failure(self, what: str) -> ServingError:
        """The error to raise about this server, with the end of its log."""
        return ServingError(
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

    def _prepare(self, scratch: Path) -> list[str]:
        """Lay out the private folder ``scratch``; the command line that serves from it."""
        binary, wheel = find_tritonserver(self._python)
        http, grpc = self._ports
        command = [
            str(binary),
            f"--model-repository={_view(self.store, self.kind, scratch / 'models')}",
            "--model-control-mode=explicit",
            f"--load-model={self.kind}",
            f"--id={self._name}",
            f"--http-address={self._host}",
            f"--http-port={http}",
            f"--grpc-address={self._host}",
            f"--grpc-port={grpc}",
            "--allow-metrics=false",
            f"--exit-timeout-secs={EXIT_SECONDS}",
            # each server its own segments, so that a killed one's can be told from the others'
            f"--backend-config=python,shm-region-prefix-name={self._name}",
        ]
        if wheel is not None:
            backends = _assemble_backends(wheel, self._python, scratch / "backends")
            command.append(f"--backend-directory={backends}")
        return command

    def _environment(self) -> dict[str, str]:
        """The stub ignores PYTHONPATH and PYTHONHOME; PATH leads it to the environment.

        Without the interpreter's own library folder it may mix the system's libpython with
        another version's standard library.
        """
        library = _interpreter(self._python)["libdir"]
        paths = {"PATH": str(Path(self._python).parent), "LD_LIBRARY_PATH": library}
        joined = {
            key: os.pathsep.join(filter(None, (first, os.environ.get(key))))
            for key, first in paths.items()
        }
        threads = str(self._threads)
        return {
            **os.environ,
            **joined,
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "RLHF_SERVER_THREADS": threads,
        }

    def _http(self, path: str, body: bytes | None = None) -> bytes:
        url = f"http://{self._host}:{self._ports[0]}{path}"
        with _HTTP.open(urllib.request.Request(url, data=body), timeout=PROBE_SECONDS) as answer:
            return answer.read()

    def _port_was_taken(self) -> bool:
        """Asked of the ports, not of the log: on a taken port Triton may just abort."""
        for port in self._ports:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past connections
                try:
                    probe.bind((self._host, port))
                except OSError:
                    return True
        return False


def free_ports(host: str, count: int = 2) -> list[int]:
    """Ports that nobody listens on right now (Triton refuses port 0)."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((host, 0))
        return [one.getsockname()[1] for one in sockets]


def find_tritonserver(python: str = sys.executable) -> tuple[Path, Path | None]:
    """The server's binary; with it the wheel's folder when it is the wheel's binary.

    Looked for in ``RLHF_TRITONSERVER``, then on PATH, then in the wheel ``nvidia-pytriton`` of
    this environment or of ``python``'s.

    Raises:
        ServingError: there is none.
    """
    named = os.environ.get("RLHF_TRITONSERVER")
    found = named or shutil.which("tritonserver")
    if found:
        if not os.access(found, os.X_OK):
            raise ServingError(
                "RLHF_TRITONSERVER does not name a program.",
                where=found,
                expected="the path of a tritonserver binary",
                hint="unset it to use the tritonserver on PATH or of the nvidia-pytriton wheel",
            )
        return Path(found), None
    spec = importlib.util.find_spec("pytriton")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    wheel = (folder or Path(_interpreter(python)["purelib"], "pytriton")) / "tritonserver"
    binary = wheel / "bin" / "tritonserver"
    if not binary.is_file():
        raise ServingError(
            "There is no tritonserver on this machine.",
            where="RLHF_TRITONSERVER, PATH, the package nvidia-pytriton",
            expected="a tritonserver with the python backend",
            hint="pip install nvidia-pytriton, or run in a Triton image",
        )
    return binary, wheel


def _view(store: Path, kind: str, folder: Path) -> Path:
    """A repository of links into the store: Python would leave compiled files in the store."""
    version = folder / kind / "1"
    version.mkdir(parents=True)
    (folder / kind / "config.pbtxt").symlink_to(store / kind / "config.pbtxt")
    for name in ("model.py", "hf"):
        (version / name).symlink_to(store / kind / "1" / name)
    return folder


def _assemble_backends(wheel: Path, python: str, folder: Path) -> Path:
    """The wheel's Python backend, with the stub for ``python``'s version.

    Everything is a symbolic link; a copied stub would not find its libraries.
    """
    version = _interpreter(python)["version"]
    stub = wheel / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise ServingError(
            f"The nvidia-pytriton wheel has no stub for Python {version}.",
            where=stub,
            expected="one of " + ", ".join(sorted(p.name for p in stub.parents[1].glob("3.*"))),
            hint="serve with another interpreter",
        )
    backend = folder / "python"
    backend.mkdir(parents=True)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        (backend / name).symlink_to(wheel / "backends" / "python" / name)
    (backend / stub.name).symlink_to(stub)
    return folder


def _interpreter(python: str) -> dict[str, str]:
    """Version, package folder and library folder of an interpreter."""
    code = (
        "import json, sysconfig as s; print(json.dumps({'version': s.get_python_version(), "
        "'libdir': s.get_config_var('LIBDIR') or '', 'purelib': s.get_path('purelib')}))"
    )
    try:
        return json.loads(subprocess.check_output([python, "-c", code], text=True))
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise ServingError(
            f"The interpreter for the model does not run: {error}",
            where=python,
            expected="a Python that has torch and transformers",
        ) from None
