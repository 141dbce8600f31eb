"""What the launcher's tests run as a stage: ``python -m launched_stage ACTION [args…]``."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

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


def score_with_two(lost: str, *artifacts: str) -> None:
    """Score by two reward models, served and in this process; lose a server in between, or none."""
    from types import SimpleNamespace

    import torch

    from rlhf.models.reward import load_calibration, load_reply_scorer
    from rlhf.online.rewards import RewardModel, ServedRewardModel
    from rlhf.online.rollout import Rollout
    from rlhf.online.scoring import Scoring
    from rlhf.online.terms import RewardSum, Term
    from rlhf.stages.servers import client

    sequences = [torch.arange(1, length) for length in range(6, 20)]
    count, starts = len(sequences), [3] * len(sequences)
    ended = torch.arange(count) % 2 == 0
    logprobs = [torch.zeros(len(ids) - 3) for ids in sequences]
    lengths = [[len(ids) for ids in sequences]]
    rollout = Rollout([{}] * count, sequences, starts, lengths, ended, logprobs, logprobs, [])
    folders = [Path(artifact) / "model" for artifact in artifacts]
    calibrations = [load_calibration(folder) for folder in folders]
    stage: Any = SimpleNamespace(stage="train_ppo", name="x")
    clients = [client(stage, "reward", folder, i) for i, folder in enumerate(folders, start=1)]
    local = [RewardModel(load_reply_scorer(folder), 2, 512) for folder in folders]
    reference: Any = SimpleNamespace(remote=False, logprobs=lambda rollout: [])

    def scores(sources: Any) -> torch.Tensor:
        ensemble = Term("both", sources, calibrations, combine="uncertainty", coefficient=0.5)
        alone = Term("second", sources[1:], calibrations[1:], weight=-0.5)
        scoring = Scoring(RewardSum([ensemble, alone]), reference)
        scoring.begin(rollout)
        return scoring.finish(rollout)[0].raw

    served = [ServedRewardModel(each, 2) for each in clients]
    before = scores(served)
    torch.testing.assert_close(before, scores(local), rtol=1e-4, atol=1e-4)
    for _ in range(int(lost)):
        kill_server()
    assert torch.equal(scores(served), before)
    print("the same scores", flush=True)


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
