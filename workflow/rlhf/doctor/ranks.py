"""All-reduce between ranks, started as a training stage is.

As a module it is what the ranks run: ``python -m rlhf.doctor.ranks``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rlhf.doctor.check import Check

NAME = "all-reduce"
MEGABYTES, ROUNDS = 64, 5
LIMIT_SECONDS = 300


def check_ranks(nodes: int, gpus: int, image: Path | None, logs: Path) -> Check:
    """Sum numbers over ranks: one for each GPU, else two on each node's CPUs.

    Args:
        nodes: nodes of the job that this runs in; 1 outside of one.
        gpus: GPUs on each node.
        image: image to run in, or None.
        logs: folder for the launcher's files, which all nodes see.
    """
    logs.mkdir(parents=True, exist_ok=True)
    used = gpus if gpus * nodes > 1 else 0
    processes = used or (2 if nodes == 1 else 1)
    with tempfile.TemporaryDirectory(dir=logs, prefix=".ranks-") as scratch:
        command = [
            sys.executable, "-m", "rlhf.launch", f"--nodes={nodes}", f"--processes={processes}",
            f"--gpus={used}", f"--log={Path(scratch) / 'ranks.log'}",
            *([f"--image={image}"] if image else []), "--", "rlhf.doctor.ranks",
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=LIMIT_SECONDS, errors="replace"
            )
        except subprocess.TimeoutExpired:
            found = f"no answer in {LIMIT_SECONDS} s"
            to_do = "nodes may not reach each other: see NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME"
            return Check(NAME, "failed", found, to_do)
    answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not answers:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["nothing was said"]
        return Check(NAME, "failed", lines[-1], f"run it by hand: {' '.join(command)}")
    answer = json.loads(answers[-1])
    found = (
        f"{answer['world']} ranks on {answer['hosts']} nodes by {answer['backend']}: "
        f"{answer['gb_per_second']:.2f} GB/s"
    )
    if not answer["right"]:
        return Check(NAME, "failed", f"{found}, and the sum is wrong", "check the GPUs' health")
    return Check(NAME, "ok", found)


def main() -> None:
    """One rank: sum, compare, time; rank 0 prints what came out."""
    import torch
    import torch.distributed as dist

    from rlhf.models import devices
    from rlhf.training import distributed

    distributed.start()
    world, rank = distributed.world_size(), distributed.rank()
    values = torch.full((MEGABYTES << 18,), float(rank + 1), device=devices.own_device())
    distributed.total([1.0])  # connect
    began = time.perf_counter()
    right = True
    for _ in range(ROUNDS):
        sums = values.clone()
        dist.all_reduce(sums)
        right = right and bool((sums == world * (world + 1) / 2).all())
    seconds = time.perf_counter() - began
    hosts = len(set(distributed.gather([os.uname().nodename])))
    if rank == 0:
        answer = {
            "world": world,
            "hosts": hosts,
            "backend": dist.get_backend(),
            "right": right,
            "gb_per_second": ROUNDS * MEGABYTES / 1024 / seconds,
        }
        print(json.dumps(answer), flush=True)
    distributed.finish()


if __name__ == "__main__":
    main()
