"""Ranks: who am I, sums over all of us, what each has to tell."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from rlhf.models.devices import check_device, own_device
from rlhf.runtime.network import interface_towards

# Rank 0 alone saves, publishes and digests, while the others wait. A rank that has died is noticed
# at once, by its closed connections; this is for one that hangs.
TIMEOUT = timedelta(minutes=30)


def start() -> None:
    """Join the process group that torchrun announced; one process only looks at its device.

    NCCL between GPUs, gloo between CPUs.

    Raises:
        ClusterError: a GPU that this process was given can't be used.
    """
    check_device()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    if torch.cuda.is_available():
        dist.init_process_group("nccl", timeout=TIMEOUT, device_id=own_device())
        return
    # By itself, gloo takes the interface that the machine's name stands for: on many machines that
    # is the loopback, where other nodes are not found.
    interface = interface_towards(os.environ["MASTER_ADDR"])
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    dist.init_process_group("gloo", timeout=TIMEOUT)


def start_alone() -> None:
    """Be a group of one process, where there is no other: what shards wants a group."""
    if not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def finish() -> None:
    """Leave the process group, all ranks together: where the first to end is missed, others fail.

    Rank 0 may have to digest a large model still.
    """
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def rank() -> int:
    """This process's rank."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def total(values: list[float]) -> list[float]:
    """Sums of each value over the ranks, in float64."""
    if world_size() == 1:
        return [float(value) for value in values]
    summed = torch.tensor(values, dtype=torch.float64, device=own_device())
    dist.all_reduce(summed)
    return summed.tolist()


def anyone(flag: bool) -> bool:
    """Whether the flag is set on any rank; the same answer on all."""
    return total([float(flag)])[0] > 0


def gather(items: list[Any]) -> list[Any]:
    """Items of all ranks in rank order, on every rank."""
    if world_size() == 1:
        return items
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def most(count: int) -> int:
    """The largest of the ranks' counts, on every rank."""
    return max(gather([count]))


def wait() -> None:
    """Wait until all ranks are here."""
    if dist.is_initialized():
        dist.barrier()
