"""What the launcher's tests run as a stage: ``python -m launched_stage ACTION [args…]``."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from rlhf.runtime.processes import command_line, descendants


def kill_server() -> None:
    """Kill the launcher's server, as soon as there is one."""
    while True:
        for pid in descendants(os.getppid()):
            if command_line(pid)[:1] and command_line(pid)[0].endswith("/tritonserver"):
                os.kill(pid, signal.SIGKILL)
                return
        time.sleep(0.05)


def score_across_a_crash(identity: str) -> None:
    """Score all the time; kill the server while requests are under way."""
    import threading

    import numpy as np

    from rlhf.runtime.tls import FOLDER_VARIABLE, Certificates
    from rlhf.serving.client import TritonScorer

    certificates = Certificates(Path(os.environ[FOLDER_VARIABLE]))
    rows = [np.arange(1, length) for length in range(3, 40)]
    with TritonScorer(
        os.environ["RLHF_ENDPOINT_REWARD"], "reward", json.loads(identity), certificates,
        backoff=0.5,
    ) as scorer:  # fmt: skip
        before = scorer.rewards(rows).tobytes()
        killer = threading.Timer(0.3, kill_server)
        killer.start()
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            assert scorer.rewards(rows).tobytes() == before
    print("the same rewards", flush=True)


def wait_for_signal(folder: str) -> None:
    got: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
        signal.signal(number, lambda number, _: got.append(number))
    mine = Path(folder, os.environ.get("RANK", "0"))
    mine.write_text("waiting")
    while not got:
        time.sleep(0.05)
    mine.write_text(signal.Signals(got[0]).name)
    sys.exit(75)


def kill_servers_forever() -> None:
    while True:
        kill_server()


def die_as(rank: str, number: str) -> None:
    """One rank dies of a signal, as by the kernel's hand; the others fail, for they miss it."""
    if os.environ["RANK"] == rank:
        os.kill(os.getpid(), int(number))
    time.sleep(60)


def fail_beside_the_deaf(code: str) -> None:
    """Rank 0 fails; the others hang, and don't hear that they are to end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(3)
    if os.environ["RANK"] == "0":
        sys.exit(int(code))
    time.sleep(120)


def show() -> None:
    seen = {"rank": os.environ.get("RANK"), "threads": os.environ["OMP_NUM_THREADS"]}
    os.write(1, f"{json.dumps(seen)}\n".encode())  # a whole line at once: other ranks write too


if __name__ == "__main__":
    action, *arguments = sys.argv[1:]
    if action == "exit":
        sys.exit(int(arguments[0]))
    if action == "die":
        os.kill(os.getpid(), int(arguments[0]))
    globals()[action](*arguments)
