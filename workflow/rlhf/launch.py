"""``rlhf launch``: run one stage with the model servers that it needs. No torch in here.

Starts a server for every ``--serve``, waits until each one answers, starts the stage with their
endpoints, watches both, forwards signals to the stage, passes its exit code on, and leaves
nothing running. Exit codes: the stage's own; 128 + n when signal n ended it; 1 when a server
failed; 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType

from rlhf.errors import RlhfError, ServingError
from rlhf.runtime.processes import (
    adopt_orphans,
    children,
    command_line,
    descendants,
    send,
    tied,
)
from rlhf.serving.server import TritonServer
from rlhf.serving.tls import FOLDER_VARIABLE, make_certificates
from rlhf.worker import EXIT_FOLDER, exit_code

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
RESTARTS = 2  # for each server
WATCH_SECONDS = 0.2
GRACE_SECONDS = 60.0  # for a stage that has to end because a server is lost: it may save
READY_SECONDS = 1800.0
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


class _Stopped(BaseException):
    """A signal came before there was a stage to forward it to."""


def main(argv: list[str] | None = None) -> int:
    """Run ``rlhf launch`` and return its exit code.

    To be called in the main thread of a process of its own: at the end, everything that descends
    from this process is ended.
    """
    options = _parse(sys.argv[1:] if argv is None else argv)
    if options.dry_run:
        print(_describe(options))
        return 0
    launcher = Launcher(options)
    try:
        return launcher.run()
    except RlhfError as error:
        print(f"rlhf launch: {error}", file=sys.stderr)
        return 1
    except _Stopped as stopped:
        return 128 + stopped.args[0]
    finally:
        launcher.end_all()


def _parse(argv: list[str]) -> argparse.Namespace:
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        prog="rlhf launch", usage="%(prog)s [options] -- MODULE [args…]", description=__doc__
    )
    parser.add_argument("--processes", type=int, default=1, help="training processes (ranks)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each rank")
    parser.add_argument("--server-threads", type=int, default=1, help="CPU threads of each server")
    parser.add_argument("--serve", action="append", default=[], metavar="KIND=STORE_DIR")
    parser.add_argument(
        "--log",
        type=Path,
        default=Path("logs/launch.log"),
        help="the stage's log; server logs stand beside it, as in STEM.reward-server.log",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would run")
    options = parser.parse_args(argv[:cut])
    options.command = argv[cut + 1 :]
    if not options.command:
        parser.error("which module? End the command with: -- MODULE [args…]")
    if min(options.processes, options.threads, options.server_threads) < 1:
        parser.error("--processes, --threads and --server-threads have to be 1 or more")
    options.stores = {}
    for item in options.serve:
        kind, _, store = item.partition("=")
        if kind not in ("reward", "reference") or not store or kind in options.stores:
            parser.error(f"--serve {item}: expected reward=DIR or reference=DIR, each once")
        options.stores[kind] = Path(store)
    return options


def stage_command(options: argparse.Namespace, scratch: Path | None = None) -> list[str]:
    """The command line of the stage: the module itself, or torchrun over its ranks.

    Args:
        options: the launcher's own command line.
        scratch: folder for torchrun's files, which it would leave behind elsewhere.
    """
    if options.processes == 1:
        return [sys.executable, "-m", *options.command]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += [f"--nproc-per-node={options.processes}"]
    torchrun += [f"--log-dir={scratch / 'torchrun'}"] if scratch else []
    return [*torchrun, "-m", "rlhf.worker", *options.command]


def stage_variables(options: argparse.Namespace) -> dict[str, str]:
    """What the launcher adds to the stage's environment, but for the endpoints."""
    return dict.fromkeys(_THREAD_VARIABLES, str(options.threads)) | {"PYTHONUNBUFFERED": "1"}


def _server_log(options: argparse.Namespace, kind: str) -> Path:
    return options.log.with_name(f"{options.log.stem}.{kind}-server.log")


def _describe(options: argparse.Namespace) -> str:
    lines = [
        f"server {kind}: {store}  (log: {_server_log(options, kind)})"
        for kind, store in options.stores.items()
    ]
    variables = stage_variables(options) | {
        _endpoint_variable(kind): "HOST:PORT" for kind in options.stores
    }
    lines += [f"{key}={value}" for key, value in variables.items()]
    return "\n".join([*lines, shlex.join(stage_command(options))])


def _endpoint_variable(kind: str) -> str:
    return f"RLHF_ENDPOINT_{kind.upper()}"


class Launcher:
    """One stage and its servers, from start to end."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._scratch = Path(tempfile.mkdtemp(prefix="rlhf-launch-"))
        self._servers: list[TritonServer] = []
        self._restarts: Counter[str] = Counter()
        self._child: subprocess.Popen[bytes] | None = None
        self._starting = False
        self._early: list[int] = []  # signals that came while the stage was being started

    def run(self) -> int:
        """Run all of it; the stage's exit code.

        Raises:
            ServingError: a server could not be brought up, or back.
        """
        adopt_orphans()
        for number in FORWARDED:
            signal.signal(number, self._on_signal)
        certificates = make_certificates(self._tls_folder)
        for kind, store in self._options.stores.items():
            log = _server_log(self._options, kind)
            threads = self._options.server_threads
            server = TritonServer(store, log, certificates=certificates, threads=threads)
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
            _say(f"the {server.kind} server is ready at {server.endpoint}")
        child = self._start_stage()
        while True:
            try:
                status = child.wait(WATCH_SECONDS)
                break
            except subprocess.TimeoutExpired:
                self._mend_servers()
        if self._options.processes > 1:
            status = exit_code(self._exit_folder, status)
        return 128 - status if status < 0 else status

    def end_all(self) -> None:
        """End what still runs: the stage (with time to save), the servers, then any remainder."""
        for number in FORWARDED:
            signal.signal(number, signal.SIG_IGN)
        if self._child is not None and self._child.poll() is None:
            self._forward(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(GRACE_SECONDS)
        for server in self._servers:
            server.terminate()
        for server in self._servers:
            server.stop()
        for pid in descendants(os.getpid()):
            send(pid, signal.SIGKILL)
        shutil.rmtree(self._scratch, ignore_errors=True)

    @property
    def _exit_folder(self) -> Path:
        return self._scratch / "exit"

    @property
    def _tls_folder(self) -> Path:
        return self._scratch / "tls"

    def _start_stage(self) -> subprocess.Popen[bytes]:
        self._exit_folder.mkdir()
        endpoints = {_endpoint_variable(server.kind): server.endpoint for server in self._servers}
        own = {EXIT_FOLDER: str(self._exit_folder), FOLDER_VARIABLE: str(self._tls_folder)}
        self._starting = True
        self._child = subprocess.Popen(
            tied(stage_command(self._options, self._scratch)),
            env={**os.environ, **stage_variables(self._options), **endpoints, **own},
            process_group=0,  # a terminal's Ctrl-C comes once, from here
        )
        self._starting = False
        for number in self._early:
            self._forward(number)
        return self._child

    def _mend_servers(self) -> None:
        for server in self._servers:
            trouble = server.trouble()
            if trouble is None:
                continue
            if self._restarts[server.kind] == RESTARTS:
                raise server.failure(f"{trouble} after {RESTARTS} restarts")
            self._restarts[server.kind] += 1
            _say(f"the {server.kind} server {trouble}; restarting it at {server.endpoint}")
            server.restart()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._child is not None:
            self._forward(number)
        elif self._starting:
            self._early.append(number)
        else:
            raise _Stopped(number)

    def _forward(self, number: int) -> None:
        """Pass a signal on to the stage: to every rank, past torchrun.

        torchrun ends on a signal and gives its ranks 30 s; the ranks alone know how long saving
        takes, and torchrun ends by itself after them.
        """
        assert self._child is not None
        if self._options.processes == 1:
            send(self._child.pid, number)
            return
        ranks = [pid for pid in children(self._child.pid) if "rlhf.worker" in command_line(pid)]
        for pid in ranks:
            send(pid, number)
        if not ranks:  # still starting, so nothing is lost
            send(self._child.pid, signal.SIGTERM)


def _say(text: str) -> None:
    print(f"rlhf launch: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
