"""Ranks: who am I, sums over all of us, one gradient for all.

Gradients are summed after the last micro-batch of a step, so ranks may run different numbers of
micro-batches; every loss is already divided by the *global* count of what it averages over.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from rlhf.errors import ClusterError
from rlhf.runtime import gpus
from rlhf.runtime.network import interface_towards

logger = logging.getLogger(__name__)

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
        dist.init_process_group("nccl", timeout=TIMEOUT, device_id=device())
        return
    # By itself, gloo takes the interface that the machine's name stands for: on many machines that
    # is the loopback, where other nodes are not found.
    interface = interface_towards(os.environ["MASTER_ADDR"])
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    dist.init_process_group("gloo", timeout=TIMEOUT)


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


def device() -> torch.device:
    """This process's device: its GPU, or the CPU where it was given none.

    Raises:
        ClusterError: it was given GPUs, and torch can use none.
    """
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if gpus.visible():
        raise _unusable("torch finds no GPU that it can use")
    return torch.device("cpu")


def check_device() -> None:
    """Compute something on this process's device, and say which GPUs are left alone.

    Raises:
        ClusterError: it was given a GPU, and the GPU is not there, is busy, or fails.
    """
    where = device()
    if left := gpus.unused(own=int(where.type != "cpu")):
        logger.info("%s", left)
    if where.type == "cpu":
        return
    if (where.index or 0) >= torch.cuda.device_count():
        raise _unusable(f"it is process {where.index} of this node, counted from 0, and torch "
                        f"finds {torch.cuda.device_count()} GPUs")  # fmt: skip
    try:
        torch.ones(2, device=where).sum().item()
    except (RuntimeError, AssertionError) as error:  # the latter by a torch without CUDA
        raise _unusable(str(error).splitlines()[0]) from error
    torch.cuda.set_device(where)


def _unusable(why: str) -> ClusterError:
    cuda = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    return ClusterError(
        f"The GPU that this process was given can't be used: {why}.",
        where=f"{gpus.VISIBLE}={os.environ.get(gpus.VISIBLE, '(not set)')} on "
        f"{os.uname().nodename}",
        expected=f"a GPU for torch {torch.__version__}, built {cuda}; here: {gpus.driver()}",
        hint="install a torch built for this driver's CUDA, or mend the driver; a GPU that is busy "
        "or in exclusive mode needs its other process ended; to compute on the CPU on purpose, "
        "set cluster.gpus_per_node: 0, or CUDA_VISIBLE_DEVICES= for a single command",
    )


def total(values: list[float]) -> list[float]:
    """Sums of each value over the ranks, in float64."""
    if world_size() == 1:
        return [float(value) for value in values]
    summed = torch.tensor(values, dtype=torch.float64, device=device())
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


def sum_gradients(parameters: Iterable[torch.Tensor]) -> None:
    """Add up gradients over the ranks, in place."""
    if world_size() == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:  # a rank without rows in this step
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)


def wait() -> None:
    """Wait until all ranks are here."""
    if dist.is_initialized():
        dist.barrier()
