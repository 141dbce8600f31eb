"""Servers that die, freeze, stall or take long while clients wait for answers."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from support.served_models import SLOW
from tritonclient.utils import InferenceServerException

from rlhf.runtime.processes import command_line, descendants
from rlhf.serving import wire
from rlhf.serving.server import TritonServer

pytestmark = pytest.mark.slow


def python_process(server: TritonServer) -> int:
    (stub,) = [
        pid for pid in descendants(server.pid) if "python_backend_stub" in command_line(pid)[0]
    ]
    return stub


@contextmanager
def scoring(scorer, sequences) -> Iterator[set[bytes]]:
    """Score all the time, in a thread; all different answers, as bytes."""
    seen: set[bytes] = set()
    enough = threading.Event()

    def work() -> None:
        while not enough.is_set():
            seen.add(scorer.rewards(sequences).tobytes())

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        try:
            time.sleep(0.2)
            yield seen
        finally:
            enough.set()
            working.result()


def mend(server: TritonServer, seconds: float = 900.0) -> str:
    """As the launcher does: restart the server once it is in trouble; what the trouble was."""
    until = time.monotonic() + seconds
    while not (trouble := server.trouble()):
        assert time.monotonic() < until, "nobody noticed"
        time.sleep(0.05)
    endpoint = server.endpoint
    server.restart()
    server.wait_ready(600)
    assert server.endpoint == endpoint
    assert server.trouble() is None
    return trouble


def kill_server(server: TritonServer) -> None:
    os.kill(server.pid, signal.SIGKILL)


def freeze_server(server: TritonServer) -> None:
    os.kill(server.pid, signal.SIGSTOP)


def kill_python(server: TritonServer) -> None:
    os.kill(python_process(server), signal.SIGKILL)


def freeze_python(server: TritonServer) -> None:
    os.kill(python_process(server), signal.SIGSTOP)


@pytest.mark.parametrize("fault", [kill_server, freeze_server, kill_python, freeze_python])
def test_answers_stay_right(servers, reward_scorer, sequences, fault):
    before = reward_scorer.rewards(sequences).tobytes()
    with scoring(reward_scorer, sequences) as seen:
        fault(servers["reward"])
        mend(servers["reward"])
    assert seen == {before}


def test_a_python_process_that_stood_still(servers, certificates):
    """Triton then gives answers to the wrong requests, and breaks down later."""
    server = servers["reward"]
    known_by = wire.credentials(certificates)
    rows = [np.arange(first, first + 8) for first in range(1, 41)]
    client = wire.connect(server.endpoint, known_by)
    right = [wire.ask(client, "reward", [row])[0].tobytes() for row in rows]
    over = threading.Event()
    answers: list[tuple[int, bytes]] = []  # rows and what came back

    def ask_on(which: int) -> None:
        """This client takes what there is, and waits for nothing."""
        turns = itertools.islice(itertools.cycle(range(len(rows))), which, None)
        while not over.is_set():
            i = next(turns)
            with contextlib.suppress(InferenceServerException):
                answers.append((i, wire.ask(client, "reward", [rows[i]])[0].tobytes()))

    def wait_for_answers(more: int, seconds: float) -> None:
        wanted, until = len(answers) + more, time.monotonic() + seconds
        while len(answers) < wanted and time.monotonic() < until:
            time.sleep(0.01)

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask_on, which) for which in (0, 10, 20, 30)]
        wait_for_answers(40, 60)
        stub = python_process(server)
        os.kill(stub, signal.SIGSTOP)
        time.sleep(1.15)
        os.kill(stub, signal.SIGCONT)
        wait_for_answers(40, 2)  # if any come any more
        over.set()
        for one in asking:
            one.result()
    assert len(answers) >= 40
    assert all(found == right[i] for i, found in answers)
    mend(server)


def test_a_long_request_is_not_taken_for_a_fault(servers, certificates):
    server = servers["odd"]
    client = wire.connect(server.endpoint, wire.credentials(certificates))
    slow, quick = np.array([SLOW, 1]), np.array([1, 2])

    def busy(rows: list[np.ndarray], requests: int) -> None:
        with ThreadPoolExecutor(requests) as pool:
            answers = [pool.submit(wire.ask, client, "reward", rows) for _ in range(requests)]
            while not all(answer.done() for answer in answers):
                assert server.trouble() is None
                time.sleep(0.05)
            for answer in answers:
                assert len(answer.result()) == len(rows)

    busy([slow, slow, quick], 1)  # longer than a look waits
    busy([slow, slow], 4)  # longer than nothing may be answered, but answers come


def test_a_hang_is(servers, certificates):
    server = servers["odd"]
    client = wire.connect(server.endpoint, wire.credentials(certificates))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(wire.ask, client, "reward", [np.array([SLOW, 1])] * 60)
        assert mend(server) == "has answered nothing for 8 s"
        assert answer.exception() is not None
