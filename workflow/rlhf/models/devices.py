"""The device that this process computes on: the GPU that it was given, or the CPU."""

from __future__ import annotations

import gc
import logging
import os
import resource
from collections.abc import Sequence
from typing import Any

import torch

from rlhf.errors import ClusterError
from rlhf.runtime import gpus as given
from rlhf.runtime.performance import Gpus, peak_flops

logger = logging.getLogger(__name__)


def own_device() -> torch.device:
    """This process's device: its GPU, or the CPU where it was given none.

    Raises:
        ClusterError: it was given GPUs, and torch can use none.
    """
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if given.visible():
        raise _unusable("torch finds no GPU that it can use")
    return torch.device("cpu")


def own_dtype() -> torch.dtype:
    """Type of weights that nothing trains: bfloat16 on a GPU that has it, float32 elsewhere.

    Sampling and scoring are bound by the memory that weights are read from. CPUs keep float32: few
    are fast in bfloat16, and their results are compared byte for byte.
    """
    if own_device().type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on a device; a GPU fetches it by itself, and this process goes on meanwhile."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def fetched(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Tensors [N_i] on the CPU; this process waits for its GPU once, not once for each.

    Args:
        tensors: of one device and type.
    """
    if not tensors:
        return []
    return list(torch.cat(list(tensors)).cpu().split([len(each) for each in tensors]))


def check_device() -> None:
    """Compute something on this process's device, and say which GPUs are left alone.

    Raises:
        ClusterError: it was given a GPU, and the GPU is not there, is busy, or fails.
    """
    where = own_device()
    if left := given.unused(own=int(where.type != "cpu")):
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


def gpus(count: int, parameters: int) -> Gpus | None:
    """The GPUs that a run computes on, one for each of its processes; None on CPUs.

    Args:
        count: processes.
        parameters: that are trained.
    """
    if own_device().type == "cpu":
        return None
    return Gpus(count, peak_flops(torch.cuda.get_device_name()), parameters)


def peak_memory() -> int:
    """Most memory so far, in bytes: tensors on the GPU; on a CPU the process's own."""
    if own_device().type == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return torch.cuda.max_memory_allocated()


def free_memory() -> None:
    """Free the memory of models that nothing refers to any more, for others and their processes."""
    gc.collect()
    if own_device().type == "cuda":
        torch.cuda.empty_cache()


def facts() -> dict[str, Any]:
    """How a GPU computes, for a manifest: equal weights give other bytes under other settings.

    Nothing on a CPU.
    """
    if own_device().type == "cpu":
        return {}
    return {
        "float32": torch.backends.cuda.matmul.fp32_precision,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def _unusable(why: str) -> ClusterError:
    cuda = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    return ClusterError(
        f"The GPU that this process was given can't be used: {why}.",
        where=f"{given.VISIBLE}={os.environ.get(given.VISIBLE, '(not set)')} on "
        f"{os.uname().nodename}",
        expected=f"a GPU for torch {torch.__version__}, built {cuda}; here: {given.driver()}",
        hint="install a torch built for this driver's CUDA, or mend the driver; a GPU that is busy "
        "or in exclusive mode needs its other process ended; to compute on the CPU on purpose, "
        "set cluster.gpus_per_node: 0, or CUDA_VISIBLE_DEVICES= for a single command",
    )
